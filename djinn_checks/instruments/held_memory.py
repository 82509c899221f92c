"""How much memory held weights at one moment: a place counts from its first use until it is given back.

A system may load one module at a time and drop it. Its weights then come to lie at ever other addresses, and all of
these together are many bytes that it never held at once. So a place counts only while it is held:

- A storage that PyTorch's own allocator made is given back when nobody refers to it any more, or when it is resized.
- A storage over memory of somebody else's (a mapping, NumPy's) may die while that memory stays. If the kernel does
  not list the address any more (`/proc/self/maps`), it was given back. If it does, nobody can tell from outside, and
  both answers are kept: as held to the end, and as given back.
- A lazy copy's memory is another tensor's, and a file's memory outlives its mapping, wherever that lies: it can be
  mapped again, and nothing moves. So both are kept as well, and what of a file was used is known by its place in it.

Why a bound that rests on it is right. What was given back has to be written again before the next forward can use it.
So of U bytes that a forward used, at least U - H are written from one forward to the next, H being the most that
was held at one moment: no more than H can be there when the next one starts.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from djinn_checks.addresses import is_lazy_copy
from djinn_checks.instruments.memory_maps import find_file, is_mapped

_WATCHED = 64
"""So many places that were used last are looked at again: whether they were resized to nothing."""

_MOST_ROWS = 1 << 20

Mapped = Callable[[int], bool]


@dataclass(frozen=True)
class _Interval:
    within: str
    """A device, or a file."""
    start: int
    end: int
    rows: int = 1
    """Of which only so many stretches of `row_bytes` are meant, `pitch` bytes apart from the start on."""
    row_bytes: int = 0
    pitch: int = 0


@dataclass(frozen=True)
class _Event:
    key: int
    used: _Interval | None = None
    """None: the storage is gone."""
    number: int = 0
    """Of the use."""
    certain: bool = True
    """Of a storage that is gone: so is its memory."""


class HeldMemory:
    """Follows the storages that weights were used from."""

    def __init__(self, mapped: Mapped | None = None) -> None:
        """Start empty.

        Args:
            mapped: tells whether the process has memory at an address; None: asks the kernel.
        """
        self._mapped = mapped or is_mapped
        self._events: list[_Event] = []
        self._keys: dict[int, int] = {}
        self._refs: list[weakref.ref[torch.UntypedStorage]] = []
        self._recent: deque[tuple[int, int, weakref.ref[torch.UntypedStorage]]] = deque(maxlen=_WATCHED)
        self._doubtful: list[tuple[int, int]] = []

    def note(self, tensor: Tensor, start: int, nbytes: int, number: int) -> None:
        """Note that `tensor`, whose first and last byte lie `nbytes` apart from address `start` on, was used; the use
        has a number. Between its rows may lie another's bytes, which do not count."""
        self._look_again()
        storage = tensor.untyped_storage()
        file = find_file(start) if tensor.device.type == "cpu" and not storage.resizable() else None
        key = self._keys.get(storage._cdata)
        if key is None:
            is_shared = file is not None or is_lazy_copy(tensor)
            key = self._follow(storage, start, is_shared=is_shared)
        within, start = file or (str(tensor.device), start)
        self._events.append(_Event(key, _Interval(within, start, start + nbytes, *_rows_of(tensor)), number))

    def _follow(self, storage: torch.UntypedStorage, address: int, *, is_shared: bool) -> int:
        key, handle = len(self._refs), storage._cdata
        is_own = storage.resizable() and not is_shared
        may_be_told = storage.device.type == "cpu" and not is_shared

        def gone(_: object) -> None:
            self._keys.pop(handle, None)
            if is_own or not may_be_told:
                self._events.append(_Event(key, certain=is_own))
            else:
                self._doubtful.append((key, address))

        ref = weakref.ref(storage, gone)
        self._keys[handle] = key
        self._refs.append(ref)
        if not is_shared:  # to ask for a lazy copy's address would make a real one
            self._recent.append((key, storage.data_ptr(), ref))
        return key

    def _look_again(self) -> None:
        """See what became of the places that were used last."""
        while self._doubtful:
            key, address = self._doubtful.pop()
            self._events.append(_Event(key, certain=not self._mapped(address)))
        for key, start, ref in list(self._recent):
            storage = ref()
            if storage is not None and (storage.nbytes() == 0 or storage.data_ptr() != start):
                self._events.append(_Event(key))
                self._keys.pop(storage._cdata, None)
                self._recent.remove((key, start, ref))

    def bytes_of(self, numbers: Collection[int]) -> tuple[int, int]:
        """Return the most bytes that the uses of these numbers held at one moment.

        The first figure counts what may still be held, the second counts it as given back.
        """
        self._look_again()
        return self._peak(numbers, lambda event: event.certain), self._peak(numbers, lambda event: True)

    def _peak(self, numbers: Collection[int], is_gone: Callable[[_Event], bool]) -> int:
        held: dict[int, set[_Interval]] = {}
        peak, grown = 0, False
        for event in list(self._events):
            if event.used is not None and event.number in numbers:
                held.setdefault(event.key, set()).add(event.used)
                grown = True
            elif event.used is None and event.key in held and is_gone(event):
                peak = max(peak, _union_bytes(held.values()) if grown else 0)
                grown = False
                held.pop(event.key)
        return max(peak, _union_bytes(held.values()) if grown else 0)


def _rows_of(tensor: Tensor) -> tuple[int, int, int]:
    """Return (rows, bytes of a row, bytes from one to the next) of a tensor with gaps; (1, 0, 0) if it is in one piece,
    or if it has too many of them or gaps of several widths, and so all of it counts."""
    dims = sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)
    run, rows, pitch = 1, 1, 0
    for stride, size in dims:
        if stride == 0:
            continue
        if rows == 1 and stride == run:
            run *= size
        elif rows == 1 or stride == pitch * rows:
            rows, pitch = rows * size, pitch or stride
        else:
            return 1, 0, 0
    if rows > _MOST_ROWS:
        return 1, 0, 0
    itemsize = tensor.element_size()
    return (rows, run * itemsize, pitch * itemsize) if rows > 1 else (1, 0, 0)


def _union_bytes(places: Iterable[Iterable[_Interval]]) -> int:
    """Return the size of the union of intervals of memory."""
    intervals = [interval for place in places for interval in place]
    total = 0
    for within in {interval.within for interval in intervals}:
        reached = 0
        for start, end in sorted(_stretches([found for found in intervals if found.within == within])):
            total += max(0, end - max(start, reached))
            reached = max(reached, end)
    return total


def _stretches(intervals: Iterable[_Interval]) -> Iterator[tuple[int, int]]:
    for found in intervals:
        if found.rows == 1:
            yield found.start, found.end
        else:
            for start in range(found.start, found.end, found.pitch):
                yield start, start + found.row_bytes
