"""Proof, in every pass, that what was decoded into a place is what was encoded once.

The proof is the sum of a place's 64-bit words, against the sum that was taken before the segment was encoded. A bit
that flips in the encoded bytes changes what is decoded from there on, so it changes the sum but for one chance in
2^64; a single word that differs changes it for certain. Words that change places with each other do not show.

A CPU raises in the forward that needed the bytes. On CUDA the host does not wait to hear of it: the place gets NaNs all
over, so that nothing computed from it can pass for a result, and the error is raised as soon as the host gets to know,
in the next forward at the latest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from djinn_checks.engine.codec import checksum
from djinn_checks.engine.segments import Segment
from djinn_checks.errors import CodecError

_EVERY = 128
"""Every so many 32-bit words of a wrong place become NaNs: at least one in a row of 256 values of two bytes."""


class Proof(Protocol):
    """Holds the bytes in the places of a plan's loads against their sums. A slot is the number of a load."""

    def prove(self, slot: int) -> None:
        """Check the place, behind the decode that filled it, on the same stream. On a CPU it raises CodecError."""
        ...

    def known_wrong(self) -> int | None:
        """Return the slot of a load that is known to have come out wrong, without waiting; None if none is."""
        ...


class HostProof:
    """Checks at once."""

    def __init__(self, places: Sequence[Tensor], sums: Sequence[int]) -> None:
        self._places, self._sums = places, sums

    def prove(self, slot: int) -> None:
        found = int(checksum(self._places[slot]))
        if found != self._sums[slot]:
            raise CodecError(
                f"decoded bytes have the sum {found:#x}, expected {self._sums[slot]:#x}: the encoded bytes changed in "
                "host memory or on their way; load the model again, and check the memory if it returns"
            )

    def known_wrong(self) -> int | None:
        return None


class CudaProof:
    """Checks on the stream of the decode, and tells the host once in a cycle of loads, by a byte for each of them."""

    def __init__(self, places: Sequence[Tensor], sums: Sequence[int], between: Sequence[int]) -> None:
        device = places[0].device
        self._places = places
        self._some = [place.view(torch.int32)[::words] for place, words in zip(places, between, strict=True)]
        self._sums = torch.tensor(sums, dtype=torch.int64, device=device)
        self._found = torch.zeros_like(self._sums)
        self._wrong = torch.zeros(len(sums), dtype=torch.bool, device=device)
        self._last = -1  # of the slots that were proved since the host was told
        self._told = torch.zeros(len(sums), dtype=torch.bool, pin_memory=device.type == "cuda")

    def prove(self, slot: int) -> None:
        wrong = self._wrong[slot]
        checksum(self._places[slot], out=self._found[slot])
        torch.ne(self._found[slot], self._sums[slot], out=wrong)
        self._some[slot].masked_fill_(wrong, -1)  # all bits set
        ends = slot == len(self._places) - 1
        if ends or slot <= self._last:  # or a forward was left before its last load
            self._told.copy_(self._wrong, non_blocking=True)
        self._last = -1 if ends else slot

    def known_wrong(self) -> int | None:
        return int(self._told.nonzero()[0]) if self._told.any() else None


def open_proof(segments: Sequence[Segment], places: Sequence[Tensor], sums: Sequence[int]) -> Proof:
    """Return the proof for the places (1-d uint8) of a cycle's segments, on their device."""
    if places[0].device.type != "cuda":
        return HostProof(places, sums)
    return CudaProof(places, sums, [words_between_nans(segment) for segment in segments])


def words_between_nans(segment: Segment) -> int:
    """Return how many 32-bit words lie from one NaN to the next in a wrong place: each row of a matrix gets one."""
    rows = (tensor.shape[-1] * tensor.dtype.itemsize // 4 for tensor in segment.tensors if len(tensor.shape) > 1)
    return max(1, min((_EVERY, *rows)))
