"""The segments of one model as they travel: encoded once, checked at once, kept in host memory.

How short a segment becomes is known when it has been encoded, and what stays on the device follows from that. So one
block is encoded first, the others are expected to shrink as it did, and what a plan streams is encoded, until there is
a plan whose segments have all been.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from djinn_checks.engine.codec import Codec, Decode, checksum
from djinn_checks.engine.host_memory import HostArena
from djinn_checks.engine.residency import Plan, Planner
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
    """One segment as it travels."""

    data: Tensor
    """Host memory, 1-d uint8: what the codec wrote, and zeros up to a multiple of 16."""
    length: int
    """How many of them the codec wrote."""
    is_plain: bool
    """They are the segment's own bytes: it does not shrink."""
    checksum: int
    """Of the segment's own bytes. Those that travel differ from one encoding to the next."""

    @property
    def nbytes(self) -> int:
        """Bytes that travel."""
        return self.data.numel()


class EncodedWeights:
    """Segments of one model, encoded as plans ask for them. Each weight is read once."""

    def __init__(self, cut: Cut, weights: Weights, codec: Codec, device: torch.device) -> None:
        """Note what to encode; nothing is read yet."""
        self._cut, self._weights, self._codec, self._device = cut, weights, codec, device
        self._kept: dict[int, tuple[Encoded, HostArena]] = {}
        self._last: tuple[int, Tensor] | None = None

    def __getitem__(self, segment: int) -> Encoded:
        return self._kept[segment][0]

    def plan(self, planner: Planner) -> Plan:
        """Return the plan for these segments. Those that it streams are encoded.

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
        self._encode(self._typical())
        while True:
            try:
                plan = planner(self._cut, self._expected())
            except CapacityError:
                return self._leave_plain(plain)
            if plan.bytes_per_pass >= plain.bytes_per_pass:
                return self._leave_plain(plain)
            missing = {load.segment for load in plan.loads} - self._kept.keys()
            if not missing:
                return plan
            for index in sorted(missing):
                self._encode(index)

    def _leave_plain(self, plan: Plan) -> Plan:
        """Keep the segments of a plan as they are."""
        for index in sorted({load.segment for load in plan.loads}):
            plain = torch.zeros(self._cut.segments[index].nbytes, dtype=torch.uint8, device=self._device)
            self.fill(index, plain)
            self._keep(index, plain, is_plain=True, plain=plain)
        return plan

    def decoder(self, segment: int, landed: Tensor, place: Tensor) -> Decode:
        """Prepare to decode a segment from where it lands (1-d uint8, as long as it travels) into its place."""
        encoded = self[segment]
        if encoded.is_plain:
            return lambda: _copy(place, landed)
        return self._codec.decoder(landed[: encoded.length], place, self._cut.segments[segment].dtype)

    def fill(self, segment: int, place: Tensor) -> None:
        """Put a segment that stays where it is used; if it was encoded to see how short it becomes, let go of that."""
        if segment in self._kept:
            place.copy_(self.plain(segment))
            self._kept.pop(segment)[1].close()
        else:
            self._cut.segments[segment].read(place, self._weights)

    def plain(self, segment: int) -> Tensor:
        """Return the decoded bytes of a segment (1-d uint8 on the device), in memory of their own.

        Raises:
            CodecError: they are not what was encoded.
        """
        if self._last is None or self._last[0] != segment:
            encoded, nbytes = self[segment], self._cut.segments[segment].nbytes
            plain = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
            self._decode_now(segment, encoded.data.to(self._device), plain)
            if int(checksum(plain)) != encoded.checksum:
                raise CodecError(f"{self._cut.segments[segment].name!r}: its encoded bytes changed in host memory")
            self._last = (segment, plain)
        return self._last[1]

    def close(self) -> None:
        """Let go of the host memory."""
        self._last = None
        while self._kept:
            self._kept.popitem()[1][1].close()

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

    def _encode(self, index: int) -> None:
        segment = self._cut.segments[index]
        plain = torch.zeros(segment.nbytes, dtype=torch.uint8, device=self._device)
        segment.read(plain, self._weights)
        encoded = self._codec.encode(plain, segment.dtype)
        if _whole_words(encoded.numel()) > _SHRINKS * plain.numel():
            self._keep(index, plain, is_plain=True, plain=plain)
            return
        self._keep(index, encoded, is_plain=False, plain=plain)
        again = torch.empty_like(plain)
        self._decode_now(index, encoded, again)
        if not torch.equal(again, plain):
            raise CodecError(
                f"codec {self._codec.name!r}: {segment.name!r} ({segment.nbytes:,} bytes, mostly {segment.dtype}) "
                "does not decode to what it was; let the weights travel as they are (codec 'raw')"
            )

    def _keep(self, index: int, travels: Tensor, *, is_plain: bool, plain: Tensor) -> None:
        arena = HostArena(_whole_words(travels.numel()), pinned=self._device.type == "cuda")
        arena.buffer[: travels.numel()].copy_(travels)
        kept = Encoded(data=arena.buffer, length=travels.numel(), is_plain=is_plain, checksum=int(checksum(plain)))
        self._kept[index] = (kept, arena)

    def _decode_now(self, segment: int, encoded: Tensor, place: Tensor) -> None:
        """Decode and wait for it. The codec's stream has to see what the current one has put there, and vice versa."""
        decode, stream = self.decoder(segment, encoded, place), self._codec.stream
        if stream is None:
            decode()
            return
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            decode()
        stream.synchronize()


def _copy(place: Tensor, landed: Tensor) -> None:
    place.copy_(landed, non_blocking=True)


def _whole_words(nbytes: int) -> int:
    return -(-nbytes // _WORD) * _WORD
