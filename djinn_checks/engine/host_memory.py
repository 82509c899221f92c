"""Host memory that the copy engine can read at full speed: exactly the bytes asked for, pinned.

PyTorch rounds a pinned block up to a power of two (386 MiB becomes 512). Here the pages are an anonymous
mapping of the exact size (rounded to a page), asked to be huge, touched by several threads, since faulting
pages in is what takes the time, and then registered with CUDA. Copies from it run at the link's ceiling.
Without CUDA nothing is registered and the same object is plain memory.
"""

from __future__ import annotations

import mmap
import os
import weakref
from concurrent.futures import ThreadPoolExecutor

import torch

from djinn_checks.errors import EngineError
from djinn_checks.units import MIB, format_bytes

_HUGE_PAGE = 2 * MIB


class HostArena:
    """One block of host memory, page-locked if `pinned`.

    Attributes:
        buffer: 1-d uint8 CPU tensor of exactly `nbytes`.
    """

    def __init__(self, nbytes: int, *, pinned: bool) -> None:
        """Map, touch and pin `nbytes` bytes.

        Raises:
            EngineError: the memory cannot be had or cannot be locked.
        """
        self.nbytes = nbytes
        self.buffer = torch.empty(0, dtype=torch.uint8)
        self._unpin: weakref.finalize[..., HostArena] | None = None
        if nbytes == 0:
            return
        try:
            self._map = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, ValueError, OverflowError) as error:
            raise EngineError(
                f"host memory: {format_bytes(nbytes)} cannot be mapped ({error}); "
                "stream fewer bytes (a larger device budget) or use a host with more RAM"
            ) from error
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self.buffer = torch.frombuffer(self._map, dtype=torch.uint8)
        _touch(self.buffer)
        if pinned:
            self._register()

    def _register(self) -> None:
        result = torch.cuda.cudart().cudaHostRegister(self.buffer.data_ptr(), self.nbytes, 0)
        if int(result) != 0:
            raise EngineError(
                f"host memory: CUDA could not lock {format_bytes(self.nbytes)} (error {int(result)}); "
                "see `ulimit -l` and the free RAM"
            )
        # CUDA goes on to believe in pages that were unmapped while locked: what lies at their address next would be
        # copied from the old ones. So an arena that is dropped, not closed, is unpinned too; the process's end does it.
        self._unpin = weakref.finalize(self, _unregister, self.buffer.data_ptr())
        self._unpin.atexit = False

    def close(self) -> None:
        """Unpin and let go of the memory. It is unmapped when the last view of it is gone."""
        if self._unpin is not None:
            self._unpin()
        self.buffer = torch.empty(0, dtype=torch.uint8)
        self.nbytes = 0


def _unregister(address: int) -> None:
    torch.cuda.cudart().cudaHostUnregister(address)


def _touch(buffer: torch.Tensor) -> None:
    """Fault every page in, a huge page at a time, on up to 16 threads; zeroing releases the GIL."""
    workers = min(16, os.cpu_count() or 1)
    share = -(-buffer.numel() // (workers * _HUGE_PAGE)) * _HUGE_PAGE
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(torch.Tensor.zero_, buffer.split(share)))
