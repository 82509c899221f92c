"""One run at a time in an output folder.

The lock is on the folder, and on a file of the user's that is named after the folder's path: whoever removes the
folder during a run, and makes another of that name, does not get around it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from djinn_checks.errors import RunnerError


@contextlib.contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Make the output folder, see that it can be written, and keep other runs out of it until the block ends.

    Raises:
        RunnerError: it cannot be written, or another run writes there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
        folder = os.open(out, os.O_RDONLY)
    except OSError as error:
        message = f"output folder {out}: cannot be written ({error.strerror}); choose another with --out"
        raise RunnerError(message) from error
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, folder)
        _lock(folder, out)
        file = _open_beside(out)
        if file is not None:
            stack.callback(os.close, file)
            _lock(file, out)
        yield


def _lock(handle: int, out: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        message = f"output folder {out}: another run writes there; wait for it, or choose another with --out"
        raise RunnerError(message) from error


def _open_beside(out: Path) -> int | None:
    """Open the file that is named after the folder's path; None where the temporary folder takes no more of them.

    It is empty and stays: if it were removed, another run could lock it by its name while this one still holds it.
    """
    with contextlib.suppress(OSError):
        mine = Path(tempfile.gettempdir()) / f"djinn-checks-locks-{os.geteuid()}"
        mine.mkdir(mode=0o700, exist_ok=True)
        if mine.is_symlink() or mine.stat().st_uid != os.geteuid():
            return None
        name = hashlib.sha256(os.fsencode(out.resolve())).hexdigest()[:32]
        return os.open(mine / name, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    return None


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keep runs out of a folder that is read, as far as its file system can; nothing is written there.

    Raises:
        RunnerError: a run writes there.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunnerError(f"{folder}: a run writes there; wait for it") from error
        yield
