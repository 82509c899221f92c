"""Moves a session's KV bytes between the device and host memory, and takes their digest on the way.

One batch of asynchronous copies on a stream of their own, so that the computation of other sessions goes on
beside them; the digests are computed on the device, on a second stream, from the device's bytes: before they
leave (beside the copies, both only read), and after they came back (a few regions at a time, behind their
copies). Between two host buffers, on a machine without a GPU, the same code copies and digests one after the
other.

`out` and `back` enqueue a move at once, in the caller's thread, and return it; another thread waits for its end.
Enqueuing takes 2 ms in the thread that computes; in a thread beside it, the two would wrestle for the
interpreter at every launch, and the move take several times as long.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from djinn_checks.digest import digest_rows


@dataclass(frozen=True, kw_only=True)
class Moved:
    """One move of a session's bytes."""

    nbytes: int
    """Bytes that were copied."""
    digests: tuple[int, ...]
    """One 64-bit digest per region, of the bytes on the device."""
    copy_s: float
    """Seconds until all bytes were copied. On a CPU the digests are taken in turn with the copies: `total_s`."""
    total_s: float
    """Seconds until the digests were there too."""

    @property
    def digest_s(self) -> float:
        """Seconds that the digests took beyond the copies."""
        return self.total_s - self.copy_s

    @property
    def digest(self) -> str:
        """One digest of all regions as 16 hexadecimal digits; their order counts."""
        total = 0
        for value in self.digests:
            total = (total * 0x100000001B3 + value) % 2**64
        return f"{total:016x}"


class Move(Protocol):
    """A move of one session's bytes that was asked for."""

    def wait(self) -> Moved:
        """Block until the move has ended. To be called once."""
        ...


class Later(Move):
    """A move whose work is done by the thread that waits for it."""

    def __init__(self, work: Callable[[], Moved]) -> None:
        self._work = work

    def wait(self) -> Moved:
        return self._work()


class Enqueued(Move):
    """A move that the device does by itself: all that its streams have been given until now, and nothing behind it."""

    def __init__(self, started: float, nbytes: int, digests: Tensor, *, copying: Any, digesting: Any) -> None:
        """Mark the end of the move.

        Args:
            started: when it began, by `time.perf_counter`.
            digests: on the host, where they arrive with the end of the digesting stream's work.
            copying: the copies' stream; None if they are done.
            digesting: the digests' stream; None if they are done.
        """
        self._started, self._nbytes, self._digests = started, nbytes, digests
        self._copied, self._digested = _mark(copying), _mark(digesting)

    def wait(self) -> Moved:
        copy_s = _seconds_until(self._copied, self._started)
        total_s = _seconds_until(self._digested, self._started)
        digests = tuple(self._digests.tolist())
        return Moved(nbytes=self._nbytes, digests=digests, copy_s=copy_s, total_s=total_s)


_SCRATCH_WORDS = 1 << 23
"""64 MB: so much of a session is digested by three launches. Kept, so that it never looks like a session's memory."""

_PARTS_AT_ONCE = 8
"""Copies per call. The first bytes leave while Python still cuts the next parts, and the calls stay few."""


class KvMover:
    """Copies in one direction; each direction has its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        cuda = device.type == "cuda"
        self._copying = torch.cuda.Stream(device) if cuda else None
        # The digest's many small kernels go before the large ones of a session that computes.
        self._digesting = torch.cuda.Stream(device, priority=-1) if cuda else None
        with self._on(self._digesting):
            self._scratch = torch.empty(_SCRATCH_WORDS, dtype=torch.int64, device=device) if cuda else None
            self._digest(torch.zeros((1, 4), dtype=torch.uint8, device=device))  # what the first sets up takes 40 ms

    def out(self, groups: list[Tensor], pages: list[Tensor]) -> Move:
        """Copy regions on the device, one behind the other, into pages on the host.

        What the caller's stream has been given so far comes first, here and in `back`.

        Args:
            groups: uint8 device tensors [regions, bytes], the bytes in use of each region.
            pages: 1-d uint8 host tensors with room for all of them.
        """
        return self._begin(partial(self._start_out, groups, pages))

    def back(self, groups: list[Tensor], pages: list[Tensor]) -> Move:
        """Copy what `out` wrote to `pages` into regions on the device."""
        return self._begin(partial(self._start_back, groups, pages))

    def _begin(self, start: Callable[[], Enqueued]) -> Move:
        """Start now what the device does by itself; a CPU does all the work while it is waited for."""
        if self._copying is None or self._digesting is None:
            return Later(lambda: start().wait())
        computing = torch.cuda.current_stream(self._device)
        self._copying.wait_stream(computing)
        self._digesting.wait_stream(computing)
        try:
            return start()
        except Exception:  # whoever hears of it gives the block and the pages to others: nothing may copy any more
            self._copying.synchronize()
            self._digesting.synchronize()
            raise

    def _start_out(self, groups: list[Tensor], pages: list[Tensor]) -> Enqueued:
        started = time.perf_counter()
        with self._on(self._copying):
            copied = _copy((host, device) for device, host in pair_parts(_rows(groups), pages))
        with self._on(self._digesting):
            digests = self._fetch([self._digest(group) for group in groups])
        return self._enqueued(started, copied, digests)

    def _start_back(self, groups: list[Tensor], pages: list[Tensor]) -> Enqueued:
        started, copied, parts = time.perf_counter(), 0, pair_parts(_rows(groups), pages)
        arrived: list[Any] = []
        # All copies are enqueued before the first digest: enqueuing a digest takes the host longer than a copy.
        with self._on(self._copying):
            for group in groups:
                copied += _copy(_take(parts, group.numel()))
                arrived.append(_mark(self._copying))
        with self._on(self._digesting):
            digests = []
            for group, event in zip(groups, arrived, strict=True):
                if self._digesting:
                    self._digesting.wait_event(event)
                digests.append(self._digest(group))
            fetched = self._fetch(digests)
        return self._enqueued(started, copied, fetched)

    def _digest(self, group: Tensor) -> Tensor:
        return digest_rows(group, scratch=self._scratch)

    def _fetch(self, digests: list[Tensor]) -> Tensor:
        """Return all digests on the host, where they arrive when the device is through with them."""
        return torch.cat(digests).to("cpu", non_blocking=True)

    def _on(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        return torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext()

    def _enqueued(self, started: float, nbytes: int, digests: Tensor) -> Enqueued:
        return Enqueued(started, nbytes, digests, copying=self._copying, digesting=self._digesting)


def _mark(stream: Any) -> Any:
    """Return an event behind what a stream has been given; None without a stream."""
    return stream.record_event() if stream is not None else None


def _seconds_until(event: Any, started: float) -> float:
    if event is not None:
        event.synchronize()
    return time.perf_counter() - started


def _copy(pairs: Iterator[tuple[Tensor, Tensor]]) -> int:
    """Copy each pair's second tensor into its first, and return the bytes."""
    nbytes = 0
    while batch := list(islice(pairs, _PARTS_AT_ONCE)):
        targets, sources = map(list, zip(*batch, strict=True))
        torch._foreach_copy_(targets, sources, non_blocking=True)
        nbytes += sum(map(Tensor.numel, targets))
    return nbytes


def _take(parts: Iterator[tuple[Tensor, Tensor]], nbytes: int) -> Iterator[tuple[Tensor, Tensor]]:
    while nbytes:
        part = next(parts)
        nbytes -= part[0].numel()
        yield part


def _rows(groups: list[Tensor]) -> list[Tensor]:
    return [row for group in groups for row in group]


def pair_parts(regions: list[Tensor], pages: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut regions and pages at each other's ends and return the parts that belong together, in order."""
    page_number, offset = 0, 0
    for region in regions:
        done = 0
        while done < region.numel():
            page = pages[page_number]
            size = min(region.numel() - done, page.numel() - offset)
            yield region[done : done + size], page[offset : offset + size]
            done, offset = done + size, offset + size
            if offset == page.numel():
                page_number, offset = page_number + 1, 0
