"""How many connections a server bears: each takes a file descriptor, and a process has few or many of those.

A process that has none left can accept nobody, and whoever asks then waits in vain. So the limit is raised as far as
the system lets it be, some are kept back for what the server opens itself, and beyond the rest a request is refused
with a 503 as long as that is so. Sessions take none, asleep or not.
"""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

from djinn_checks.errors import EngineError

_WANTED = 65_536
_KEPT_BACK = 16
_FEWEST = 4
_OPEN = Path("/proc/self/fd")


def raise_limit() -> int | None:
    """Let this process open as many files as it may, and return how many that are; None if there is no limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return None if soft == resource.RLIM_INFINITY else soft


def count_connections(limit: int | None) -> int | None:
    """Return how many connections there may be at once, now that everything is open that the server needs.

    Raises:
        EngineError: hardly any.
    """
    if limit is None or not _OPEN.is_dir():
        return None
    left = limit - len(os.listdir(_OPEN)) - _KEPT_BACK
    if left < _FEWEST:
        raise EngineError(
            f"open files: this process may have {limit}, and has {len(os.listdir(_OPEN))} open before anybody asks; "
            "allow for more (ulimit -n)"
        )
    return left
