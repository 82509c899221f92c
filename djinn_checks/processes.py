"""Processes that find this package wherever they run, and end with the one that started them.

The kernel of the operating system does both parts of the latter, on Linux alone; elsewhere those functions do nothing.
A process may ask for a signal when its parent ends (PR_SET_PDEATHSIG), and it may take in what is orphaned below it
(PR_SET_CHILD_SUBREAPER): then neither a second fork nor a session of its own leads out of its family.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

_SET_PDEATHSIG, _SET_SUBREAPER, _GET_SUBREAPER = 1, 36, 37
"""Options of prctl(2)."""
_ROUNDS_S = 10.0
"""How long what forks again is chased."""
_TIED = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != int(sys.argv[1]):
        os._exit(137)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]}: {error.strerror}")
"""


def start_code(call: str, places: Sequence[str] | None = None) -> str:
    """Return code for `python -c` that finds modules where this process does, whatever lies in the working folder.

    Args:
        call: what to run.
        places: where modules are looked for; None: where this process does.

    This package comes from where it came from here. Everything else is looked for in its folder and in the working
    folder last, so that no file there, `torch.py` say, is taken for a library.
    """
    home, here = str(Path(__file__).resolve().parents[1]), os.getcwd()
    found = [os.path.abspath(path) for path in (sys.path if places is None else places)]
    first = [path for path in found if os.path.realpath(path) not in (home, here)]
    last = [home, *(path for path in found if os.path.realpath(path) == here != home)]
    return (
        f"import sys; sys.path[:] = {first!r}; import __future__, importlib, typing; sys.path[:] = {[home]!r}; "
        f"import djinn_checks; sys.path[:] = {[*first, *last]!r}; {call}"
    )


def module_command(module: str, places: Sequence[str] | None = None) -> list[str]:
    """Return a command that runs a module of this package as `python -m` does, found as `start_code` says."""
    run = f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return [sys.executable, "-c", start_code(run, places)]


def tied(command: Sequence[str]) -> list[str]:
    """Return a command that becomes this one, and is killed when the thread that started it ends, however it ends."""
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]


def end_with_parent(parent: int, how: signal.Signals) -> None:
    """Have this process get a signal when its parent ends; get it at once if that is no longer `parent`."""
    if _prctl(_SET_PDEATHSIG, how) and os.getppid() != parent:
        os.kill(os.getpid(), how)


def adopt_orphans() -> None:
    """Have whatever descends from this process and loses its parent become this one's child, from here on."""
    _prctl(_SET_SUBREAPER, 1)


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """Have it be so for as long as the block runs."""
    was = ctypes.c_int(0)
    _prctl(_GET_SUBREAPER, ctypes.byref(was))
    adopt_orphans()
    try:
        yield
    finally:
        _prctl(_SET_SUBREAPER, was.value)


def find_family() -> list[psutil.Process]:
    """Return every living process that descends from this one."""
    return [process for process in psutil.Process().children(recursive=True) if is_living(process)]


def is_living(process: psutil.Process) -> bool:
    """Tell whether a process is still there, and more than an entry that nobody has asked for yet."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end_all(find: Callable[[], Sequence[psutil.Process]], grace_s: float) -> None:
    """End what is found, politely, then not, and look again until nothing is: one may have forked meanwhile."""
    end_s, asked = time.monotonic() + grace_s + _ROUNDS_S, False
    while (found := find()) and time.monotonic() < end_s:
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill() if asked else process.terminate()
        psutil.wait_procs(found, timeout=1.0 if asked else grace_s)
        asked = True


def _prctl(option: int, argument: object) -> bool:
    """Ask the operating system's kernel; tell whether it did as asked."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(option, argument, 0, 0, 0) == 0)
