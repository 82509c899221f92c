"""The host memory that sleeping sessions share: a hard limit, page-locked, handed out in pages.

A session's bytes need not lie together on the host, so equal pages serve sessions of any length and nothing
is lost to gaps between them: at most one page a session is half used.
"""

from __future__ import annotations

import threading

from torch import Tensor

from djinn_checks.engine.host_memory import HostArena
from djinn_checks.errors import KvCapacityError
from djinn_checks.units import MIB, format_bytes

_LARGEST_PAGE = 32 * MIB  # a copy of that size runs at the link's full speed
_SMALLEST_PAGE = MIB // 16
_PAGES = 256


class HostPool:
    """Pages of host memory, never more than `limit_bytes` of them. Safe to use from any thread.

    Attributes:
        page_bytes: bytes of a page.
    """

    def __init__(self, limit_bytes: int, *, pinned: bool) -> None:
        """Map and pin the whole pool.

        Raises:
            EngineError: the memory cannot be had or cannot be locked.
        """
        share = limit_bytes // _PAGES // _SMALLEST_PAGE * _SMALLEST_PAGE
        self.page_bytes = max(_SMALLEST_PAGE, min(_LARGEST_PAGE, share))
        self._arena = HostArena(limit_bytes // self.page_bytes * self.page_bytes, pinned=pinned)
        self._lock = threading.Lock()
        self._free = list(self._arena.buffer.split(self.page_bytes)) if self._arena.nbytes else []
        self._pages = len(self._free)

    @property
    def limit_bytes(self) -> int:
        """Bytes of all pages."""
        return self._pages * self.page_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of the pages that hold something."""
        with self._lock:
            return (self._pages - len(self._free)) * self.page_bytes

    def fits(self, nbytes: int) -> bool:
        """Tell whether `nbytes` could be taken now."""
        with self._lock:
            return self._count(nbytes) <= len(self._free)

    def take(self, nbytes: int) -> list[Tensor]:
        """Return pages for `nbytes`, each a 1-d uint8 tensor of `page_bytes`.

        Raises:
            KvCapacityError: the pool has too few free pages.
        """
        with self._lock:
            count = self._count(nbytes)
            if count > len(self._free):
                raise KvCapacityError(
                    f"host pool: {format_bytes(nbytes)} need {count} pages, {len(self._free)} of {self._pages} are "
                    "free; close sessions, or give a larger pool (host_swap_pool_gb) or a folder to spill to"
                )
            taken, self._free = self._free[:count], self._free[count:]
            return taken

    def give(self, pages: list[Tensor]) -> None:
        """Take pages back."""
        with self._lock:
            self._free.extend(pages)

    def close(self) -> None:
        """Let go of the memory. No page may be in use any more."""
        self._free, self._pages = [], 0
        self._arena.close()

    def _count(self, nbytes: int) -> int:
        return -(-nbytes // self.page_bytes)
