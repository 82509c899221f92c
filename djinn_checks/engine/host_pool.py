"""The host memory that sleeping sessions share: a hard limit, page-locked, handed out in pages.

A session's bytes need not lie together on the host, so equal pages serve sessions of any length and nothing
is lost to gaps between them: at most one page per session is half used. Pages that lie together are handed out as
one piece, and the smallest gap that holds all of them is taken first: a copy ends where a piece does, and each costs
the link some microseconds.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from torch import Tensor

from djinn_checks.engine.host_memory import HostArena
from djinn_checks.errors import EngineError, KvCapacityError
from djinn_checks.units import MIB, format_bytes

_LARGEST_PAGE = 32 * MIB  # a copy of that size runs at nearly the link's full speed
_SMALLEST_PAGE = MIB // 16
_PAGES = 256


@dataclass(frozen=True, order=True)
class _Gap:
    """Free pages that lie together."""

    first: int
    count: int

    @property
    def end(self) -> int:
        return self.first + self.count


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
        self._pages = limit_bytes // self.page_bytes
        self._arena = HostArena(self._pages * self.page_bytes, pinned=pinned)
        self._lock = threading.Lock()
        self._gaps = [_Gap(0, self._pages)] if self._pages else []

    @property
    def limit_bytes(self) -> int:
        """Bytes of all pages."""
        return self._pages * self.page_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of the pages that hold something."""
        with self._lock:
            return (self._pages - self._free_pages()) * self.page_bytes

    def fits(self, nbytes: int) -> bool:
        """Tell whether `nbytes` could be taken now."""
        with self._lock:
            return self._count(nbytes) <= self._free_pages()

    def take(self, nbytes: int) -> list[Tensor]:
        """Return room for `nbytes` in pieces, 1-d uint8 tensors of one or more pages each.

        Raises:
            KvCapacityError: the pool has too few free pages.
        """
        with self._lock:
            missing, free = self._count(nbytes), self._free_pages()
            if missing > free:
                raise KvCapacityError(
                    f"host pool: {format_bytes(nbytes)} need {missing} pages, {free} of {self._pages} are "
                    "free; close sessions, or give a larger pool (host_swap_pool_gb) or a folder to spill to"
                )
            pieces = []
            while missing:
                gap = self._choose(missing)
                count = min(missing, gap.count)
                self._gaps.remove(gap)
                if count < gap.count:
                    self._gaps.append(_Gap(gap.first + count, gap.count - count))
                pieces.append(self._arena.buffer.narrow(0, gap.first * self.page_bytes, count * self.page_bytes))
                missing -= count
            return pieces

    def give(self, pieces: list[Tensor]) -> None:
        """Take pieces back.

        Raises:
            EngineError: one of them has been given back before; nothing is taken.
        """
        with self._lock:
            gaps: list[_Gap] = []
            for gap in sorted([*self._gaps, *map(self._gap_of, pieces)]):
                if gaps and gaps[-1].end > gap.first:
                    raise EngineError("host pool: room was given back twice; two sessions would share it")
                if gaps and gaps[-1].end == gap.first:
                    before = gaps.pop()
                    gaps.append(_Gap(before.first, before.count + gap.count))
                else:
                    gaps.append(gap)
            self._gaps = gaps

    def close(self) -> None:
        """Let go of the memory. No page may be in use any more."""
        self._gaps, self._pages = [], 0
        self._arena.close()

    def _choose(self, pages: int) -> _Gap:
        """Return the smallest gap that holds so many pages, or else the largest one."""
        large = [gap for gap in self._gaps if gap.count >= pages]
        return min(large, key=lambda gap: gap.count) if large else max(self._gaps, key=lambda gap: gap.count)

    def _gap_of(self, piece: Tensor) -> _Gap:
        return _Gap(int(piece.storage_offset()) // self.page_bytes, piece.numel() // self.page_bytes)

    def _free_pages(self) -> int:
        return sum(gap.count for gap in self._gaps)

    def _count(self, nbytes: int) -> int:
        return -(-nbytes // self.page_bytes)
