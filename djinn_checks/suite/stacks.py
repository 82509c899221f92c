"""Where a kernel's threads are when it crashes, or when its time is nearly over: written to a file of the run's folder.

A process that a signal ends, or that hangs in foreign code, raises no exception: Python's faulthandler, which needs
no interpreter that still works, writes the stack of each thread.
"""

from __future__ import annotations

import faulthandler
import os
from pathlib import Path
from typing import TextIO

STACKS = "stacks.txt"
LIMIT = "DJINN_CHECKS_LIMIT_S"
"""The variable that gives the run's time limit, in seconds."""
_BEFORE_S, _SHARE = 2.0, 0.9
"""How long before the limit stacks are written: so many seconds, of a short limit its last tenth."""

_open: list[TextIO] = []
"""The file has to stay open for as long as the process lives."""


def watch(folder: Path, limit_s: float) -> None:
    """Have the stacks written to a file of the folder, in a crash or shortly before the limit."""
    file = (folder / STACKS).open("w", encoding="utf-8")
    _open.append(file)
    faulthandler.enable(file=file, all_threads=True)
    faulthandler.dump_traceback_later(max(limit_s - _BEFORE_S, _SHARE * limit_s), file=file)


def watch_this_run() -> None:
    """Watch the process that a suite's runner started; anywhere else do nothing."""
    scratch, limit = os.environ.get("DJINN_CHECKS_SCRATCH"), os.environ.get(LIMIT)
    if scratch and limit:
        watch(Path(scratch), float(limit))
