"""The segments of one model encoded: once, checked at once, kept in host memory or on the device.

How short a segment becomes is known when it has been encoded, and what stays on the device follows from that. So one
block is encoded first, the others are expected to shrink as it did, and what a plan streams is encoded, until there is
a plan whose segments have all been.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from djinn_checks.engine.codec import Codec, Decode, checksum
from djinn_checks.engine.host_memory import HostArena
from djinn_checks.engine.plan import Plan, Planner
from djinn_checks.engine.segments import Cut, Weights
from djinn_checks.errors import CapacityError, CodecError

_WORD = 16
"""Encoded bytes are filled up to a multiple of this: copies meet whole words."""
_ROOM = 1.01
"""How much longer than the first block another one is expected to be, at most."""
_SHRINKS = 0.97
"""A segment that keeps more than this share of its bytes travels as it is: a decode is not for nothing."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One segment as it travels, or as it stays."""

    data: Tensor
    """1-d uint8: what the codec wrote, and zeros up to a multiple of 16."""
    length: int
    """How many of them the codec wrote."""
    is_plain: bool
    """They are the segment's own bytes: it does not shrink."""
    checksum: int
    """Of the segment's own bytes. Those that travel differ from one encoding to the next."""
    arena: HostArena | None
    """The host memory that `data` is; None: it is on the device."""

    @property
    def nbytes(self) -> int:
        """Bytes that travel, or stay."""
        return self.data.numel()


class EncodedWeights:
    """Segments of one model, encoded as plans ask for them. Each weight is read once."""

    def __init__(self, cut: Cut, weights: Weights, codec: Codec, device: torch.device) -> None:
        """Note what to encode; nothing is read yet."""
        self._cut, self._weights, self._codec, self._device = cut, weights, codec, device
        self._kept: dict[int, Encoded] = {}
        self._last: tuple[int, Tensor] | None = None

    def __getitem__(self, segment: int) -> Encoded:
        return self._kept[segment]

    def plan(self, planner: Planner) -> Plan:
        """Return the plan for these segments. Those that travel or stay encoded are encoded.

        If no fewer bytes would travel than without a codec, or the budget has no room for a landing zone, all travel
        as they are: what lands encoded takes room that segments could stay in.

        Raises:
            CapacityError: as the planner without a codec.
            CodecError: bytes did not decode to what they were.
            EngineError: a weight is missing or has another shape or dtype, or memory cannot be had.
        """
        plain = planner(self._cut, None)
        if not plain.loads:
            return plain
        self._encode(self._typical(), stays=False)
        while True:
            plan = None
            with contextlib.suppress(CapacityError):
                plan = planner(self._cut, self._expected())
            if plan is None or plan.bytes_per_pass >= plain.bytes_per_pass:
                return self._leave_plain(plain)
            missing = {load.segment for load in plan.loads} - self._kept.keys()
            if not missing:
                return self._settle(plan)
            for index in sorted(missing):
                self._encode(index, stays=index in plan.stays_encoded)

    def _settle(self, plan: Plan) -> Plan:
        """See that what stays encoded is on the device and what travels in host memory; let go of what does neither."""
        for index in list(self._kept):
            if index in {load.segment for load in plan.loads}:
                self._move(index, stays=index in plan.stays_encoded)
            elif index not in plan.resident:
                self._drop(index)
        return plan

    def _leave_plain(self, plan: Plan) -> Plan:
        """Keep the segments of a plan as they are."""
        for index in sorted({load.segment for load in plan.loads}):
            plain = torch.zeros(self._cut.segments[index].nbytes, dtype=torch.uint8, device=self._device)
            self.fill(index, plain)
            self._keep(index, plain, is_plain=True, stays=False, total=int(checksum(plain)))
        return self._settle(plan)

    def decoder(self, segment: int, place: Tensor, *, landed: Tensor | None = None) -> Decode:
        """Prepare to decode a segment into its place.

        Args:
            landed: where it lands, 1-d uint8, as long as it travels; None if it stays on the device.
        """
        encoded = self[segment]
        source = encoded.data if landed is None else landed
        if encoded.is_plain:
            return partial(_copy, place, source)
        return self._codec.decoder(source[: encoded.length], place, self._cut.segments[segment].dtype)

    def fill(self, segment: int, place: Tensor) -> None:
        """Put a segment that stays where it is used; if it was encoded to see how short it becomes, let go of that."""
        if segment in self._kept:
            place.copy_(self.plain(segment))
            self._drop(segment)
        else:
            self._cut.segments[segment].read(place, self._weights)

    def plain(self, segment: int) -> Tensor:
        """Return the decoded bytes of a segment (1-d uint8 on the device), in memory of their own.

        Raises:
            CodecError: they are not what was encoded.
        """
        if self._last is None or self._last[0] != segment:
            encoded, name = self[segment], self._cut.segments[segment].name
            plain = torch.empty(self._cut.segments[segment].nbytes, dtype=torch.uint8, device=self._device)
            self._decode_now(segment, encoded.data.to(self._device), plain)
            if int(checksum(plain)) != encoded.checksum:
                raise CodecError(f"{name!r}: its encoded bytes changed in memory; load the model again")
            self._last = (segment, plain)
        return self._last[1]

    def close(self) -> None:
        """Let go of the memory."""
        for index in list(self._kept):
            self._drop(index)

    def _typical(self) -> int:
        """Return the segment that says how much the others shrink: the largest block, if there are blocks."""
        segments = self._cut.segments
        return max(range(len(segments)), key=lambda i: (segments[i].is_block, segments[i].nbytes))

    def _expected(self) -> list[int]:
        """Return the bytes on the wire of each segment: those that it has, or as many as may be expected."""
        typical = self._typical()
        share = min(1.0, _ROOM * self[typical].nbytes / self._cut.segments[typical].nbytes)
        return [
            self[index].nbytes if index in self._kept else _whole_words(int(share * segment.nbytes))
            for index, segment in enumerate(self._cut.segments)
        ]

    def _encode(self, index: int, *, stays: bool) -> None:
        """Read, encode and keep a segment, and see that it decodes to what it was."""
        segment = self._cut.segments[index]
        plain = torch.zeros(segment.nbytes, dtype=torch.uint8, device=self._device)
        segment.read(plain, self._weights)
        encoded = self._codec.encode(plain, segment.dtype)
        is_plain = _whole_words(encoded.numel()) > _SHRINKS * plain.numel()
        encoded = plain if is_plain else encoded
        self._keep(index, encoded, is_plain=is_plain, stays=stays, total=int(checksum(plain)))
        again = torch.empty_like(plain)
        self._decode_now(index, encoded, again)
        if not torch.equal(again, plain):
            raise CodecError(
                f"codec {self._codec.name!r}: {segment.name!r} ({segment.nbytes:,} bytes, mostly {segment.dtype}) "
                "does not decode to what it was; let the weights travel as they are (codec 'raw')"
            )

    def _keep(self, index: int, encoded: Tensor, *, is_plain: bool, stays: bool, total: int) -> None:
        data, arena = self._room(encoded.numel(), on_device=stays)
        data[: encoded.numel()].copy_(encoded)
        self._kept[index] = Encoded(data=data, length=encoded.numel(), is_plain=is_plain, checksum=total, arena=arena)

    def _move(self, index: int, *, stays: bool) -> None:
        """Bring a segment from host memory to the device or back, if it is not there."""
        encoded = self._kept[index]
        if stays == (encoded.arena is None):
            return
        data, arena = self._room(encoded.nbytes, on_device=stays)
        data.copy_(encoded.data)
        self._drop(index)
        self._kept[index] = replace(encoded, data=data, arena=arena)

    def _room(self, nbytes: int, *, on_device: bool) -> tuple[Tensor, HostArena | None]:
        """Return zeros for so many bytes and the words that they fill, on the device or in host memory."""
        if not on_device:
            arena = HostArena(_whole_words(nbytes), pinned=self._device.type == "cuda")
            return arena.buffer, arena
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # or a part of a larger free block is taken, whose rest nobody else can have
        return torch.zeros(_whole_words(nbytes), dtype=torch.uint8, device=self._device), None

    def _drop(self, index: int) -> None:
        if self._last is not None and self._last[0] == index:
            self._last = None
        arena = self._kept.pop(index).arena
        if arena is not None:
            arena.close()

    def _decode_now(self, segment: int, encoded: Tensor, place: Tensor) -> None:
        """Decode and wait for it. The codec's stream has to see what the current one has put there, and vice versa."""
        decode, stream = self.decoder(segment, place, landed=encoded), self._codec.stream
        if stream is None:
            decode()
            return
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            decode()
        stream.synchronize()


def _copy(place: Tensor, landed: Tensor) -> None:
    place.copy_(landed[: place.numel()], non_blocking=True)


def _whole_words(nbytes: int) -> int:
    return -(-nbytes // _WORD) * _WORD
