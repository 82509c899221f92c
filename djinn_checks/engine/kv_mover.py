"""Moves a session's KV bytes between the device and host memory, and takes their digest on the way.

One batch of asynchronous copies on a stream of their own, so that the computation of other sessions goes on
beside them; the digests are computed on the device, on a second stream, from the device's bytes: before they
leave (beside the copies, both only read), and after they came back (a few regions at a time, behind their
copies). `out` and `back` block the calling thread until the bytes are there; the two directions may run at
once in two threads. Between two host buffers, on a machine without a GPU, the same code copies and digests
one after the other.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from djinn_checks.digest import digest_rows


@dataclass(frozen=True, kw_only=True)
class Moved:
    """One move of a session's bytes."""

    nbytes: int
    """Bytes that were copied."""
    digests: tuple[int, ...]
    """One 64-bit digest a region, of the bytes on the device."""
    copy_s: float
    """Seconds until all bytes were copied. On a CPU the digests are taken in turn with the copies: `total_s`."""
    total_s: float
    """Seconds until the digests were there too."""

    @property
    def digest_s(self) -> float:
        """Seconds that the digests took beyond the copies."""
        return self.total_s - self.copy_s


class KvMover:
    """Copies one way. One per direction and thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        cuda = device.type == "cuda"
        self._copying = torch.cuda.Stream(device) if cuda else None
        self._digesting = torch.cuda.Stream(device) if cuda else None
        with self._on(self._digesting):
            digest_rows(
                torch.zeros((1, 4), dtype=torch.uint8, device=device)
            )  # what the first digest sets up takes 40 ms

    def out(self, groups: list[Tensor], pages: list[Tensor]) -> Moved:
        """Copy regions on the device, one behind the other, into pages on the host.

        Args:
            groups: uint8 device tensors [regions, bytes], the bytes in use of each region.
            pages: 1-d uint8 host tensors with room for all of them.
        """
        started, copied = time.perf_counter(), 0
        with self._on(self._copying):
            for device_part, host_part in _pair(_rows(groups), pages):
                host_part.copy_(device_part, non_blocking=True)
                copied += host_part.numel()
        with self._on(self._digesting):
            digests = torch.cat([digest_rows(group) for group in groups])
        return self._finish(started, copied, digests)

    def back(self, groups: list[Tensor], pages: list[Tensor]) -> Moved:
        """Copy what `out` wrote to `pages` into regions on the device."""
        started, copied, parts = time.perf_counter(), 0, _pair(_rows(groups), pages)
        arrived: list[Any] = []
        # All copies are enqueued before the first digest: enqueuing a digest takes the host longer than a copy.
        with self._on(self._copying):
            for group in groups:
                missing = group.numel()
                while missing:
                    device_part, host_part = next(parts)
                    device_part.copy_(host_part, non_blocking=True)
                    missing -= device_part.numel()
                copied += group.numel()
                arrived.append(self._copying.record_event() if self._copying else None)
        with self._on(self._digesting):
            digests = []
            for group, event in zip(groups, arrived, strict=True):
                if self._digesting:
                    self._digesting.wait_event(event)
                digests.append(digest_rows(group))
            stacked = torch.cat(digests)
        return self._finish(started, copied, stacked)

    def _on(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        return torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext()

    def _finish(self, started: float, nbytes: int, digests: Tensor) -> Moved:
        if self._copying is not None:
            self._copying.synchronize()
        copied = time.perf_counter()
        with self._on(self._digesting):
            values = tuple(int(value) for value in digests.tolist())
        return Moved(nbytes=nbytes, digests=values, copy_s=copied - started, total_s=time.perf_counter() - started)


def _rows(groups: list[Tensor]) -> list[Tensor]:
    return [row for group in groups for row in group]


def _pair(regions: list[Tensor], pages: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
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
