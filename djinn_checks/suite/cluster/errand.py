"""One job on the host that it came to: our own command line as a process of its own, looked after by a warden.

The process that this runs in is not ours. Ray's worker has a nice value of 15, holds back SIGINT, by which kernels are
interrupted, sets the number of threads to 1 and finds its own copies of libraries: none of that reaches the check.
The warden has a session of its own. If the worker is ended, by whatever and even by SIGKILL, the operating system tells
the warden, which ends all that descends from it and removes its folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psutil

from djinn_checks.errors import RunnerError
from djinn_checks.processes import module_command
from djinn_checks.report.progress import read_progress
from djinn_checks.suite.cluster.luggage import PIECE_BYTES, is_inside
from djinn_checks.suite.scratch import scratch_folder
from djinn_checks.suite.warden import GRACE_S, guarded

LOG_BYTES = 256 * 1024
"""Of what is said, so much at most comes with one look."""
_PLACE, _OUT, _SAID, _TEMPORARY = "place", "out", "said.txt", "tmp"
_THREADS = "OMP_NUM_THREADS"
_OWN = "RAY_"
"""What the variables begin with that Ray's worker has for itself."""


class Sight(NamedTuple):
    """What a look at a job shows. Plain data, so that it travels between versions."""

    code: int | None
    """The exit code of its command line; None while it runs."""
    stage: tuple[str, float, float] | None
    said: bytes
    """Of its log, from where the last look ended."""


class Errand:
    """A job's folder and process on this host. Made, filled, started, looked at, read out and ended, in that order."""

    def __init__(self, *, threads_are_given: bool = False) -> None:
        """Make the folder.

        Args:
            threads_are_given: whether whoever asked for the worker named a number of threads; else Ray's is dropped.

        Raises:
            OSError: it cannot be made.
        """
        self._stack = ExitStack()
        self._folder = self._stack.enter_context(scratch_folder())
        self._threads_are_given = threads_are_given
        self._process: subprocess.Popen[bytes] | None = None
        for name in (_PLACE, _OUT, _TEMPORARY):
            (self._folder / name).mkdir()

    def put(self, name: str, piece: bytes) -> None:
        """Add to the end of a file, which is made first.

        Raises:
            RunnerError: the name leads out of the folder.
        """
        if not is_inside(name):
            raise RunnerError(f"file {name!r}: expected a path below the job's folder")
        file = self._folder / _PLACE / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as target:
            target.write(piece)

    def start(self, arguments: Sequence[str]) -> None:
        """Start `djinn-checks` with these arguments, and `--out` where `list` looks."""
        command = [*module_command("djinn_checks", _places()), *arguments, "--out", str(self._folder / _OUT)]
        raylet = _read_parent()
        _be_as_nice_as_parent()
        with (self._folder / _SAID).open("wb") as said, _letting_interrupts_through():
            self._process = subprocess.Popen(
                guarded(command, self._folder),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=self._folder / _PLACE,
                env=self._environment(raylet),
                start_new_session=True,
            )

    def look(self, start: int) -> Sight:
        """Return how far it is, and what it has said from that byte on."""
        code = None if self._process is None else self._process.poll()
        return Sight(code=code, stage=self._read_stage(), said=_read_from(self._folder / _SAID, start, LOG_BYTES))

    def list(self) -> dict[str, tuple[int, str]]:
        """Return the size and the SHA-256 of each file that it left, by name."""
        files = sorted(file for file in (self._folder / _OUT).iterdir() if file.is_file() and not file.is_symlink())
        return {file.name: (file.stat().st_size, _digest(file)) for file in files}

    def read(self, name: str, start: int) -> bytes:
        """Return a piece of a file that it left, from that byte on; empty at the end."""
        if not is_inside(name):
            raise RunnerError(f"file {name!r}: expected the name of one that the job left")
        return _read_from(self._folder / _OUT / name, start, PIECE_BYTES)

    def end(self) -> None:
        """End what runs, wait until nothing of it is left, and remove the folder. Once more does nothing."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(6 * GRACE_S)
            self._process.kill()
            self._process.wait()
        self._stack.close()

    def _read_stage(self) -> tuple[str, float, float] | None:
        for scratch in (self._folder / _TEMPORARY).glob("djinn-checks-run-*"):
            stage = read_progress(scratch)
            if stage is not None:
                return stage.name, stage.done, stage.total
        return None

    def _environment(self, raylet: Mapping[str, str]) -> dict[str, str]:
        """Return this process's variables without those that Ray set for its own worker."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith(_OWN) or name in raylet}
        if not self._threads_are_given:
            mine.pop(_THREADS, None)
            mine |= {_THREADS: raylet[_THREADS]} if _THREADS in raylet else {}
        # Ray counts GPUs as the driver does, and CUDA without this by their speed.
        return {**mine, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "TMPDIR": str(self._folder / _TEMPORARY)}


def _places() -> list[str]:
    """Return where modules are looked for, without the folders in which Ray has its workers and copies of libraries."""
    ray = sys.modules.get("ray")
    home = Path(str(ray.__file__)).parent if ray is not None else None
    return [place for place in sys.path if home is None or not Path(place).is_relative_to(home)]


def _read_parent() -> dict[str, str]:
    """Return the variables that Ray itself was started with on this host; none if they cannot be read."""
    try:
        return dict(psutil.Process(os.getppid()).environ())
    except (psutil.Error, OSError):
        return {}


def _be_as_nice_as_parent() -> None:
    """Take back what Ray added to the nice value, where this user may; where not, `describe_host` says so."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, os.getppid()))


@contextlib.contextmanager
def _letting_interrupts_through() -> Iterator[None]:
    """Have what is started within the block be interruptible: what a thread holds back its children hold back, too."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _read_from(file: Path, start: int, most: int) -> bytes:
    try:
        with file.open("rb") as source:
            source.seek(start)
            return source.read(most)
    except FileNotFoundError:
        return b""


def _digest(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
