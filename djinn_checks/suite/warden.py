"""The process between the runner and what it runs: nothing that a run starts outlives it.

All of a run descends from this process, which takes in its orphans: a daemon that forked twice and has a session and
an environment of its own is still one of the family. When the command has ended, or this process is told to end,
the whole family is ended. The operating system tells it so by itself when the runner is gone, even by SIGKILL;
then the run's folder, which nobody will read any more, is removed, too.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from djinn_checks.processes import adopt_orphans, end_all, end_with_parent, find_family, start_code

GRACE_S = 5.0
_TOLD = {signal.SIGTERM, signal.SIGHUP}
_HELD = {*_TOLD, signal.SIGINT, signal.SIGCHLD}


def guarded(command: Sequence[str], scratch: Path) -> list[str]:
    """Return a command that runs another under a warden, and ends as that one does.

    Args:
        command: what to run.
        scratch: the run's folder.
    """
    code = start_code("from djinn_checks.suite.warden import main; main()")
    return [sys.executable, "-c", code, str(os.getpid()), str(scratch), *command]


def main() -> NoReturn:
    """Be the warden. Arguments: the runner's process id, the run's folder, the command."""
    runner, scratch, command = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # what is ignored by default may not be waited for
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)  # Ctrl-C is for the runner, which then tells this process
    adopt_orphans()
    end_with_parent(runner, signal.SIGTERM)
    warden, child = os.getpid(), os.fork()
    if child == 0:
        _become(command, before, warden)
    code = _wait(child)
    end_all(find_family, GRACE_S)
    if os.getppid() != runner:
        shutil.rmtree(scratch, ignore_errors=True)
    _leave(code)


def _become(command: list[str], mask: set[signal.Signals | int], warden: int) -> NoReturn:
    """Be the command: with signals as the runner gave them, and no longer than the warden."""
    try:
        end_with_parent(warden, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvp(command[0], command)
    finally:
        os._exit(127)


def _wait(child: int) -> int | None:
    """Return the exit code of the command, negative for a signal; None if this process was told to end before."""
    while True:
        if signal.sigwait({*_TOLD, signal.SIGCHLD}) in _TOLD:
            return None
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):  # orphans, too; the command itself still is a child
            if ended[0] == child:
                return os.waitstatus_to_exitcode(ended[1])


def _leave(code: int | None) -> NoReturn:
    """End as the command did."""
    if code is not None and code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code or 0)
