"""What goes wrong with the copies of a system that streams weights. Each function takes a dose, where one makes sense.

`Spoil` says of each copy what is copied instead. One layer's copy is bitten: not the first, which is under way
before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from djinn_checks.faults.streaming import Spoil

DTYPE = torch.float32
MANTISSA_BITS = 23
_SLOT = 1
_WORD = 100
"""An element in the midst of a segment's first matrix."""


def drop_every(n: float) -> Callable[[], Spoil]:
    """Drop one copy in n, the last one of each n."""

    def spoil(number: int, slot: int, destination: Tensor, source: Tensor) -> tuple[Tensor, Tensor] | None:
        return None if number % int(n) == int(n) - 1 else (destination, source)

    return lambda: spoil


def drop_end(share: float) -> Callable[[], Spoil]:
    """Drop this share of one layer's bytes, at the end: at least one weight."""

    def spoil(number: int, slot: int, destination: Tensor, source: Tensor) -> tuple[Tensor, Tensor] | None:
        dropped = max(DTYPE.itemsize, int(share * source.numel())) if slot == _SLOT else 0
        length = source.numel() - dropped
        return destination[:length], source[:length]

    return lambda: spoil


def swap_layers() -> Spoil:
    """Give two layers of one size each other's weights, from the second cycle on."""
    seen: dict[int, Tensor] = {}

    def spoil(number: int, slot: int, destination: Tensor, source: Tensor) -> tuple[Tensor, Tensor] | None:
        seen[slot] = source
        pair = {_SLOT: _SLOT + 1, _SLOT + 1: _SLOT}
        other = seen.get(pair.get(slot, slot), source)
        return destination, other if other.numel() == source.numel() else source

    return spoil


def keep_stale() -> Spoil:
    """Copy one slot once and never again: what its place holds is of another layer, or of the pass before."""
    seen: set[int] = set()

    def spoil(number: int, slot: int, destination: Tensor, source: Tensor) -> tuple[Tensor, Tensor] | None:
        if slot == _SLOT and slot in seen:
            return None
        seen.add(slot)
        return destination, source

    return spoil


def zero_weights(count: float) -> Callable[[], Spoil]:
    """Have so many neighbouring weights of one layer arrive as zeros."""

    def spoil(number: int, slot: int, destination: Tensor, source: Tensor) -> tuple[Tensor, Tensor] | None:
        if slot != _SLOT:
            return destination, source
        wrong = source.clone()
        wrong[: int(count) * DTYPE.itemsize] = 0
        return destination, wrong

    return lambda: spoil


def flip_bit(bit: float) -> Callable[[], Spoil]:
    """Flip one bit of one weight; bit 0 is the lowest of the mantissa."""

    def spoil(number: int, slot: int, destination: Tensor, source: Tensor) -> tuple[Tensor, Tensor] | None:
        if slot != _SLOT:
            return destination, source
        wrong = source.clone()
        words = wrong.view(torch.int32)
        words[_WORD] = words[_WORD] ^ (1 << int(bit))
        return destination, wrong

    return lambda: spoil
