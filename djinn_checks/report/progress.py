"""How far a check is, told while it runs: as a bar in a notebook, and to the runner of a suite through a file.

The bar is markup of our own, drawn anew in the same place, so it needs no extension of JupyterLab's. In a suite no one
looks at the notebook while it runs, and what it shows is kept: there the runner reads the file and tells it.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

SCRATCH = "DJINN_CHECKS_SCRATCH"
"""The variable by which a suite's runner names the folder of a run."""
_FILE = "progress.json"
_EVERY_S = 0.25
"""So often at most a bar is drawn anew; a stage that begins is always shown."""


class Stage(NamedTuple):
    """A stage of a check, and how far it is: `done` of `total`, in whatever the check counts."""

    name: str
    done: float
    total: float

    def share(self) -> float:
        """Return the share that is done, from 0 to 1."""
        return min(max(self.done / self.total, 0.0), 1.0) if self.total > 0 else 0.0

    def describe(self) -> str:
        """Return the stage in words; of one that is not counted, its name alone."""
        is_whole = self.total <= 1 and self.done in (0, 1)
        return self.name if is_whole else f"{self.name}, {self.share():.0%}"


class Progress:
    """Told by a check how far it is; shows it where somebody looks."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Find out who looks."""
        self._clock = clock
        self._started = clock()
        self._shown: tuple[str, float] = ("", -math.inf)
        scratch = os.environ.get(SCRATCH)
        self._file = Path(scratch) / _FILE if scratch else None
        self._handle: Any = None

    def __call__(self, stage: str, done: float, total: float) -> None:
        """Take that so much of a stage is done. Never raises: a check is not lost for want of a bar."""
        now = self._clock()
        is_end = total > 1 and done >= total
        if stage == self._shown[0] and now - self._shown[1] < _EVERY_S and not is_end:
            return
        self._shown = (stage, now)
        try:
            if self._file is not None:
                _write(self._file, Stage(stage, done, total))
            else:
                self._draw(Stage(stage, done, total), now - self._started)
        except Exception:
            self._file = None

    def _draw(self, stage: Stage, seconds: float) -> None:
        from IPython.display import display  # only where a kernel runs

        shown = {"text/html": render_bar(stage, seconds), "text/plain": f"{stage.describe()} ({seconds:.0f} s)"}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
            self._end_with_cell()
        else:
            self._handle.update(shown, raw=True)

    def _end_with_cell(self) -> None:
        """Have the bar end with the cell that it stands under: a check does not tell that its last stage is over."""
        from IPython import get_ipython

        shell = get_ipython()
        if shell is None:
            return

        def end(result: Any) -> None:
            shell.events.unregister("post_run_cell", end)
            stage, seconds = self._shown[0], self._clock() - self._started
            over = Stage("finished" if result.success else f"ended in the stage: {stage}", 0.0 + result.success, 1.0)
            shown = {"text/html": render_bar(over, seconds), "text/plain": f"{over.name} ({seconds:.0f} s)"}
            self._handle.update(shown, raw=True)

        shell.events.register("post_run_cell", end)


def show_progress() -> Progress:
    """Return what a check is given as `progress`, so that a notebook shows how far it is."""
    return Progress()


def render_bar(stage: Stage, seconds: float) -> str:
    """Return a bar as markup, readable in light and dark."""
    share = stage.share()
    return (
        f'<div role="progressbar" aria-valuenow="{100 * share:.0f}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-label="{escape(stage.name)}" style="font: 14px/1.5 system-ui, sans-serif; text-align: left">'
        f"{escape(stage.describe())} ({seconds:.0f} s)"
        '<div style="height: 8px; max-width: 40rem; border: 1px solid #767676; border-radius: 4px; overflow: hidden">'
        f'<div style="height: 100%; width: {100 * share:.1f}%; background: #0072b2"></div></div></div>'
    )


def read_progress(scratch: Path) -> Stage | None:
    """Return the stage that a run in this folder told last; None if it told none."""
    try:
        name, done, total = json.loads((scratch / _FILE).read_text(encoding="utf-8"))
        return Stage(str(name)[:200], float(done), float(total))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _write(file: Path, stage: Stage) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(stage), encoding="utf-8")
    part.replace(file)
