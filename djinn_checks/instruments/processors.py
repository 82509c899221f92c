"""Which processors a process runs on, while its speed is compared with another's.

Processors of one machine differ by half and more, in a virtual machine above all: a neighbour works on the other
half of the core, a clock is lower. Where the scheduler puts two processes then decides which of them is faster.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping

from djinn_checks.errors import InstrumentError


def processor_pairs() -> list[tuple[int, ...]]:
    """Return the processors that this process may run on, two by two; what there is if there are not two."""
    allowed = sorted(os.sched_getaffinity(0))
    pairs = [tuple(allowed[start : start + 2]) for start in range(0, len(allowed), 2)]
    return [pair for pair in pairs if len(pair) == 2] or pairs


@contextlib.contextmanager
def held_on(pid: int, processors: Collection[int]) -> Iterator[None]:
    """Let all threads of a process run on these processors alone, and afterwards where they might before.

    Raises:
        InstrumentError: the process is gone, or is another user's.
    """
    before = _place(pid, dict.fromkeys(_threads(pid), processors))
    try:
        yield
    finally:
        everywhere = set().union(*before.values())  # for a thread that was started meanwhile
        with contextlib.suppress(InstrumentError):  # it has ended
            _place(pid, {thread: before.get(thread, everywhere) for thread in _threads(pid)})


def _place(pid: int, wanted: Mapping[int, Collection[int]]) -> dict[int, set[int]]:
    """Set where each thread may run, and return where it might before."""
    before: dict[int, set[int]] = {}
    try:
        for thread, processors in wanted.items():
            with contextlib.suppress(ProcessLookupError):  # it has ended
                before[thread] = os.sched_getaffinity(thread)
                os.sched_setaffinity(thread, processors)
    except PermissionError as error:
        raise InstrumentError(f"process {pid}: its processors cannot be chosen ({error.strerror})") from error
    return before


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except FileNotFoundError as error:
        raise InstrumentError(f"process {pid}: is not there any more") from error
