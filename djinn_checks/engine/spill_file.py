"""One file without a name for all sessions that sleep on disk: it ends with this process, however that ends.

A file for each session would take a descriptor for as long as it sleeps, and a process has few of those: it could open
nothing any more, and answer nobody. Places in the file are handed out and taken back like pages of memory, and what
lies free at its end is given back to the disk.
"""

from __future__ import annotations

import os
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from djinn_checks.errors import KvCapacityError


@dataclass(frozen=True, order=True)
class Extent:
    """A place in the file."""

    offset: int
    nbytes: int

    @property
    def end(self) -> int:
        return self.offset + self.nbytes


class SpillFile:
    """Places for bytes on disk. Safe to use from any thread; reads and writes go on beside each other."""

    def __init__(self, folder: Path) -> None:
        """Make the file.

        Raises:
            KvCapacityError: the folder cannot be made or written to.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  closed by `close`
        except OSError as error:
            raise KvCapacityError(f"spill folder {folder}: cannot be written to ({error.strerror})") from error
        self._lock = threading.Lock()
        self._taken: set[Extent] = set()

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._file.fileno()).st_size

    def take(self, nbytes: int) -> Extent:
        """Return a place for so many bytes: the first gap that holds them, or the end."""
        with self._lock:
            offset = 0
            for extent in sorted(self._taken):
                if extent.offset - offset >= nbytes:
                    break
                offset = extent.end
            found = Extent(offset, nbytes)
            self._taken.add(found)
            return found

    def give(self, extent: Extent) -> None:
        """Take a place back. Nothing may be reading or writing there any more."""
        with self._lock:
            self._taken.discard(extent)
            end = max((other.end for other in self._taken), default=0)
            if end < self.nbytes:
                self._file.truncate(end)

    def write(self, extent: Extent, data: memoryview) -> None:
        """Write all bytes of a place: one call takes 2 GB at most.

        Raises:
            KvCapacityError: the disk is full, or cannot be written to.
        """
        done = 0
        try:
            while done < extent.nbytes:
                done += os.pwrite(self._file.fileno(), data[done:], extent.offset + done)
        except OSError as error:
            raise KvCapacityError(
                f"spill folder: {extent.nbytes:,} bytes cannot be written ({error.strerror}); free disk space"
            ) from error

    def read(self, extent: Extent, into: memoryview) -> int:
        """Read the bytes of a place and return how many there are: fewer if the file was cut short."""
        done = 0
        while done < extent.nbytes:
            count = os.preadv(self._file.fileno(), [into[done:]], extent.offset + done)
            if not count:
                break
            done += count
        return done

    def close(self) -> None:
        """Let go of the file, and with it of all that is in it."""
        self._file.close()
