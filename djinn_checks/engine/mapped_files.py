"""Files that are read where they lie: mapped, and on CUDA registered, so that the copy engine reads the page cache.

A shared mapping of a file can be registered only as read-only: CUDA writes to what is registered otherwise, and the
kernel keeps it from the pages of a file. Not every file system and device bears even that. The driver's own call is
used, since the runtime's leaves its error behind for the next CUDA call to raise when it fails.

A file that is written to while it streams changes the weights with it, and one that is cut short ends the process, as
with any mapping. A file that is replaced by another one of its name, as downloads are, does neither.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import warnings
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from djinn_checks.units import MIB, format_bytes

_READ_ONLY = 8
"""CU_MEMHOSTREGISTER_READ_ONLY of cuda.h."""
FIRST_BYTES, CHUNK_BYTES = 128 * MIB, 512 * MIB
"""Of pages that are registered by one call: 33 to 40 GB/s on an H200, so some 4 and 15 ms each."""


@dataclass(frozen=True, order=True)
class Stretch:
    """Bytes of a file, from `start` to before `end`."""

    start: int
    end: int


@dataclass(kw_only=True)
class MappedFile:
    """One file, mapped shared and read-only.

    Attributes:
        buffer: all its bytes (1-d uint8, on the CPU). Writing to it ends the process.
    """

    path: Path
    buffer: Tensor
    _registered: list[Any] = field(default_factory=list)

    def register(self, stretches: Iterable[Stretch]) -> str:
        """Register the pages of some stretches with CUDA, and return why that cannot be done; empty if it was.

        Pages that several stretches share are registered once. If some cannot be, none are.
        """
        for pages in join_pages(stretches):
            why = self.lock(pages)
            if why:
                self.close()
                return why
        return ""

    def lock(self, pages: Stretch) -> str:
        """Register whole pages with CUDA, from any thread, and return why that cannot be done; empty if it was."""
        address = self.buffer.data_ptr()
        error = _driver().cuMemHostRegister_v2(
            ctypes.c_void_p(address + pages.start),
            ctypes.c_size_t(min(pages.end, self.buffer.numel()) - pages.start),
            ctypes.c_uint(_READ_ONLY),
        )
        if error:
            size = format_bytes(pages.end - pages.start)
            return f"CUDA could not register {size} of {self.path.name} where it lies (error {error})"
        # CUDA goes on to believe in pages that were unmapped while registered, so a dropped mapping lets go, too.
        freed = weakref.finalize(self, _unregister, address + pages.start)
        freed.atexit = False
        self._registered.append(freed)
        return ""

    def close(self) -> None:
        """Let CUDA go of it. It is unmapped when the last view of it is gone."""
        while self._registered:
            self._registered.pop()()


def map_file(path: Path) -> MappedFile:
    """Map a file, which has at least one byte.

    Raises:
        OSError, ValueError: it cannot be opened or mapped.
    """
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return MappedFile(path=path, buffer=torch.frombuffer(mapping, dtype=torch.uint8))


def join_pages(stretches: Iterable[Stretch]) -> list[Stretch]:
    """Return the whole pages that some stretches lie in, those that touch each other as one."""
    page = mmap.PAGESIZE
    joined: list[Stretch] = []
    for stretch in sorted(stretches):
        start, end = stretch.start // page * page, -(-stretch.end // page) * page
        if joined and start <= joined[-1].end:
            joined[-1] = Stretch(joined[-1].start, max(end, joined[-1].end))
        else:
            joined.append(Stretch(start, end))
    return joined


def cut_pages(stretches: Iterable[Stretch]) -> list[Stretch]:
    """Return the same pages in chunks, in order: a small one first, and none that is larger than `CHUNK_BYTES`."""
    chunks: list[Stretch] = []
    for pages in join_pages(stretches):
        start = pages.start
        while start < pages.end:
            end = min(start + (CHUNK_BYTES if chunks else FIRST_BYTES), pages.end)
            chunks.append(Stretch(start, end))
            start = end
    return chunks


def current_context() -> int | None:
    """Return this thread's CUDA context, for another one to enter."""
    found = ctypes.c_void_p()
    return found.value if _driver().cuCtxGetCurrent(ctypes.byref(found)) == 0 else None


def enter_context(context: int | None) -> None:
    """Have this thread work in a context of another one's; the driver's calls fail in a thread without any."""
    _driver().cuCtxSetCurrent(ctypes.c_void_p(context))


def _unregister(address: int) -> None:
    _driver().cuMemHostUnregister(ctypes.c_void_p(address))


@functools.cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")
