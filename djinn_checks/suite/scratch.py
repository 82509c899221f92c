"""The folder that a run works in, and those that runners left which were killed.

A folder of ours has an owner: a file that says so, locked for as long as the runner lives. The operating system lets
go of a lock with its process, however that ends, so a folder whose lock can be had is nobody's any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "djinn-checks-run-"
_OWNER = ".owner"
_SAYS = b"This folder is a run's of djinn-checks, and nobody's once this file is not locked.\n"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder for a run, and remove it afterwards, with those that earlier runners left.

    Raises:
        OSError: it cannot be made or written.
    """
    sweep()
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        owner = os.open(Path(name) / _OWNER, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            fcntl.flock(owner, fcntl.LOCK_EX)
            os.write(owner, _SAYS)  # only now can it be taken for a folder without an owner, and it is locked
            yield Path(name)
        finally:
            os.close(owner)


def sweep() -> None:
    """Remove the folders of runners that have ended without doing so; whatever is not surely one of them stays."""
    with contextlib.suppress(OSError):
        for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                _remove_if_left(folder)


def _remove_if_left(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return
    owner = os.open(folder / _OWNER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.read(owner, len(_SAYS) + 1) == _SAYS:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(owner)
