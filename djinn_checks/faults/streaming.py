"""Links whose copies go wrong, systems that stream over them, and one that streams nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.engine.link import CudaLink, HostLink, Link, open_link
from djinn_checks.systems.ring import RingSystem

Spoil = Callable[[int, int, Tensor, Tensor], tuple[Tensor, Tensor] | None]
"""From (number of the copy, slot, destination, source) to what is copied instead; None drops the copy."""

_DELAY_S = 0.003
_DELAY_CYCLES = 5_000_000
"""Of a GPU's clock: some 3 ms."""


class SpoiledLink:
    """Passes copies on to a link as `spoil` says, and everything else as it is."""

    def __init__(self, inner: Link, spoil: Spoil) -> None:
        self._inner, self._spoil = inner, spoil
        self._number = 0
        self._kept: dict[int, Tensor] = {}

    def copy(self, slot: int, destination: Tensor, source: Tensor, *, after: int | None) -> None:
        number, self._number = self._number, self._number + 1
        chosen = self._spoil(number, slot, destination, source)
        if chosen is None:
            return
        self._kept[slot] = chosen[1]  # alive until the copy of the next cycle
        self._inner.copy(slot, *chosen, after=after)

    def wait(self, slot: int) -> None:
        self._inner.wait(slot)

    def mark(self, slot: int) -> None:
        self._inner.mark(slot)

    def close(self) -> None:
        self._inner.close()


class SlowHostLink(HostLink):
    """A host-memory link that is slower than the computation, as a real link is."""

    def copy(self, slot: int, destination: Tensor, source: Tensor, *, after: int | None) -> None:
        def slow() -> None:
            time.sleep(_DELAY_S)
            destination.copy_(source)

        self._copies[slot] = self._thread.submit(slow)


class SlowCudaLink(CudaLink):
    """A link whose copies take longer than a tiny model's computation, as those of a large model do."""

    def copy(self, slot: int, destination: Tensor, source: Tensor, *, after: int | None) -> None:
        with torch.cuda.stream(self.stream):
            torch.cuda._sleep(_DELAY_CYCLES)
        super().copy(slot, destination, source, after=after)


def open_slow_link(device: torch.device, slots: int) -> Link:
    """Return a link that does not keep up with the computation."""
    return SlowHostLink(slots) if device.type == "cpu" else SlowCudaLink(device, slots)


class UnawaitedLink(SpoiledLink):
    """Never waits for a copy: the computation reads whatever is there."""

    def __init__(self, inner: Link) -> None:
        super().__init__(inner, lambda number, slot, destination, source: (destination, source))

    def wait(self, slot: int) -> None:
        """Wait for nothing."""


def stream_over(link_factory: Callable[[torch.device, int], Link]) -> Callable[..., RingSystem]:
    """Return a factory of the reference system over another link."""

    def build(model: Any, *, device: torch.device, budget_bytes: int) -> RingSystem:
        return RingSystem(model, device=device, budget_bytes=budget_bytes, link_factory=link_factory)

    return build


def spoil_copies(make: Callable[[], Spoil]) -> Callable[..., RingSystem]:
    """Return a factory of the reference system whose copies go wrong; `make` is called for each link."""
    return stream_over(lambda device, slots: SpoiledLink(open_link(device, slots), make()))


class HooksDoNothing(RingSystem):
    """The model lies on the device, and the plan's bytes are claimed for every forward."""

    forwards = 0

    def open(self) -> nn.Module:
        module = self.model.resident(self.device)
        module.register_forward_hook(self._count)
        return module

    def _count(self, *_: Any) -> None:
        self.forwards += 1

    def claimed_bytes(self) -> int | None:
        return self.forwards * self.plan.bytes_per_pass
