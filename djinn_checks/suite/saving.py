"""A notebook is written while it runs once a cell takes its time, and not twice for each of its cells.

papermill writes the whole notebook before a cell and after it, which takes longer than most cells do. Whoever looks at
it meanwhile, and whoever ends the run, waits for a cell that takes long: what was there before such a cell is written
once it has run for `AFTER_S`. At the end, whatever the end, papermill writes everything.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

AFTER_S = 0.5


@contextlib.contextmanager
def saved_in_time(manager: Any, after_s: float = AFTER_S) -> Iterator[Callable[..., None]]:
    """Have papermill's manager of a notebook write it as said above; afterwards it writes at once again.

    Yields:
        What is to be called in the event loop when a cell begins to run.
    """
    plan = _Plan(manager.save, after_s)

    def begin_cell(**_: Any) -> None:
        plan.cancel()
        plan.make()

    def save(**given: Any) -> None:
        manager.nb = given.get("nb") or manager.nb
        with contextlib.suppress(RuntimeError):  # between two cells no loop runs, and the next cell makes a plan
            plan.make()

    manager.save = save
    try:
        yield begin_cell
    finally:
        plan.cancel()
        del manager.save


class _Plan:
    """To write in a while, once; a plan that stands is not put off."""

    def __init__(self, write: Callable[[], None], after_s: float) -> None:
        self._write, self._after_s = write, after_s
        self._timer: asyncio.TimerHandle | None = None

    def make(self) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._timer = loop.call_later(self._after_s, self._carry_out)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _carry_out(self) -> None:
        self._timer = None
        self._write()
