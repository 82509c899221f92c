"""Copies from GPU to GPU, driven by one process that sees all of them."""

from __future__ import annotations

import time
from typing import Any

import torch

from djinn_checks.checks.host.driver import Part, wait_until

_COPIES_A_ROUND = 8


class Peers:
    """A block on each GPU, and copies between any two of them."""

    def __init__(self, count: int, nbytes: int) -> None:
        """Have two blocks on each of the first `count` GPUs that this process sees."""
        devices = [torch.device("cuda", number) for number in range(count)]
        self._sources = [
            torch.full((nbytes,), 1 + number, dtype=torch.uint8, device=d) for number, d in enumerate(devices)
        ]
        self._targets = [torch.zeros(nbytes, dtype=torch.uint8, device=device) for device in devices]
        for one in range(count):
            for other in range(count):
                if one != other:
                    self._targets[other].copy_(self._sources[one])  # opens the way between the two
        self._verified = True
        for device in devices:
            torch.cuda.synchronize(device)

    def describe(self) -> dict[str, Any]:
        """Return nothing: device memory has no node."""
        return {}

    def copy_between(self, source: int, to: int, at_s: float, for_s: float) -> list[Part]:
        """Copy from one GPU to another for so long; timed by events on the one that is read."""
        nbytes, copies = self._sources[source].numel(), 0
        wait_until(at_s)
        began = time.monotonic()
        with torch.cuda.device(source):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            while time.monotonic() < at_s + for_s:
                for _ in range(_COPIES_A_ROUND):
                    self._targets[to].copy_(self._sources[source], non_blocking=True)
                copies += _COPIES_A_ROUND
                end.record()
                end.synchronize()
            seconds = start.elapsed_time(end) / 1e3
        self._verified &= bool((self._targets[to] == 1 + source).all())
        return [Part(direction="peer", nbytes=copies * nbytes, start_s=began, seconds=seconds)]

    def verify(self) -> bool:
        """Tell whether the bytes of all copies so far were the ones that were sent."""
        return self._verified


def open_link(count: int, nbytes: int) -> Peers:
    """Return the driver of copies between the GPUs that this process sees."""
    return Peers(count, nbytes)
