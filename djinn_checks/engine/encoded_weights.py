"""The segments of one model encoded: once, checked at once, kept in host memory or on the device.

How short a segment becomes is known when it has been encoded, and what stays on the device follows from that. So one
block is encoded first, the others are expected to shrink as it did, and what a plan streams is encoded, until there is
a plan whose segments have all been.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from djinn_checks.digest import digest
from djinn_checks.engine.codec import Codec, Decode, checksum
from djinn_checks.engine.encoded_store import EncodedStore, Facts, Kept
from djinn_checks.engine.host_memory import HostArena
from djinn_checks.engine.mapped_files import MappedFile
from djinn_checks.engine.plan import Plan, Planner
from djinn_checks.engine.segment_reader import SegmentReader, enter_device
from djinn_checks.engine.segments import Cut, Weights
from djinn_checks.errors import CapacityError, CodecError

_WORD = 16
"""Encoded bytes are filled up to a multiple of this: copies meet whole words."""
_ROOM = 1.01
"""How much longer than the first block another one is expected to be, at most."""
_BEHIND = 2
"""Threads that bring back what was encoded: taking and locking memory is most of that."""
_SHRINKS = 0.97
"""A segment that keeps more than this share of its bytes travels as it is: a decode is not for nothing."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One segment as it travels, or as it stays."""

    data: Tensor
    """1-d uint8: what the codec wrote, and zeros up to a multiple of 16. Not to be written to: it may be a file."""
    length: int
    """How many of them the codec wrote."""
    is_plain: bool
    """They are the segment's own bytes: it does not shrink."""
    checksum: int
    """Of the segment's own bytes. Those that travel differ from one encoding to the next."""
    arena: HostArena | None = None
    """The host memory that `data` is in."""
    file: MappedFile | None = None
    """The file that `data` is in. Neither: it is on the device."""

    @property
    def nbytes(self) -> int:
        """Bytes that travel, or stay."""
        return self.data.numel()

    @property
    def is_on_device(self) -> bool:
        return self.arena is None and self.file is None

    def close(self) -> None:
        """Let go of host memory or file."""
        for held in (self.arena, self.file):
            if held is not None:
                held.close()


class EncodedWeights:
    """Segments of one model, encoded as plans ask for them. Each weight is read once.

    Attributes:
        store: where encoded segments are kept for the next time; None: they are not.
    """

    def __init__(
        self, cut: Cut, weights: Weights, codec: Codec, device: torch.device, *, folder: Path | None = None
    ) -> None:
        """Note what to encode; nothing is read yet.

        Args:
            folder: where encoded segments are kept for the next time; None: they are not.
        """
        self._cut, self._weights, self._codec, self._device = cut, weights, codec, device
        self.store = EncodedStore(folder, weights, codec.settings, device) if folder is not None else None
        self._back = torch.cuda.Stream(device) if device.type == "cuda" else None
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
        self._obtain([self._typical()], frozenset())
        while True:
            plan = None
            with contextlib.suppress(CapacityError):
                plan = planner(self._cut, self._expected())
            if plan is None or plan.bytes_per_pass >= plain.bytes_per_pass:
                return self._leave_plain(plain)
            missing = {load.segment for load in plan.loads} - self._kept.keys()
            if not missing:
                return self._settle(plan)
            self._obtain(sorted(missing), plan.stays_encoded)

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
            self.fill([index], {index: plain})
            self._kept[index] = self._put(plain, length=plain.numel(), is_plain=True, total=int(checksum(plain)))
        return self._settle(plan)

    def decoder(self, segment: int, place: Tensor, *, landed: Tensor | None = None) -> Decode:
        """Prepare to decode a segment into its place.

        Args:
            landed: where it lands, 1-d uint8, as long as it travels; None if it stays on the device.
        """
        encoded = self[segment]
        if encoded.is_plain:
            return partial(_copy, place, encoded.data if landed is None else landed)
        length, dtype = encoded.length, self._cut.segments[segment].dtype
        at = None if landed is None else landed[:length]
        return self._codec.decoder(encoded.data[:length], place, dtype, landed=at)

    def fill(self, segments: Iterable[int], places: Mapping[int, Tensor]) -> None:
        """Put segments that stay where they are used; let go of one that was encoded to see how short it becomes."""
        with SegmentReader(self._weights, self._device) as reader:
            for index in segments:
                if index in self._kept:
                    places[index].copy_(self.plain(index))
                    self._drop(index)
                else:
                    reader.read(self._cut.segments[index], places[index])

    def plain(self, segment: int) -> Tensor:
        """Return the decoded bytes of a segment (1-d uint8 on the device), in memory of their own.

        Raises:
            CodecError: they are not what was encoded.
        """
        if self._last is None or self._last[0] != segment:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # decodes share memory, and some may be under way
            encoded, name = self[segment], self._cut.segments[segment].name
            plain = torch.empty(self._cut.segments[segment].nbytes, dtype=torch.uint8, device=self._device)
            self._run_now(self.decoder(segment, plain, landed=encoded.data.to(self._device)))
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

    def _obtain(self, indices: Sequence[int], stays: Collection[int]) -> None:
        """Get segments encoded: those that were kept from the store, all others by reading and encoding them.

        Reading runs one segment ahead of the encoder, and bringing back what was encoded some behind it.
        """
        segments = {index: self._cut.segments[index] for index in indices}
        found = {index: self.store.find(segment) for index, segment in segments.items()} if self.store else {}
        for index, kept in found.items():
            if kept is not None:
                self._kept[index] = self._take(kept, stays=index in stays)
        left = {index: segment for index, segment in segments.items() if index not in self._kept}
        sources = {index: self.store.source_of(segment) for index, segment in left.items()} if self.store else {}
        waiting: deque[tuple[int, Future[Encoded]]] = deque()
        with (
            SegmentReader(self._weights, self._device) as reader,
            ThreadPoolExecutor(_BEHIND, initializer=enter_device(self._device)) as keepers,
        ):
            for index, plain in reader.read_all(left):
                encoded, is_plain = self._encode(index, plain)
                put = partial(self._put, encoded, length=encoded.numel(), is_plain=is_plain, total=int(checksum(plain)))
                source = sources.get(index)
                waiting.append((index, keepers.submit(self._put_and_keep, index, put, source, index in stays)))
                del plain, encoded, put  # or they lie beside what is read and encoded next
                if len(waiting) >= _BEHIND:
                    done, future = waiting.popleft()
                    self._kept[done] = future.result()
            for done, future in waiting:
                self._kept[done] = future.result()

    def _encode(self, index: int, plain: Tensor) -> tuple[Tensor, bool]:
        """Encode a segment, and see that it decodes to what it was; return also whether it is left as it is."""
        segment = self._cut.segments[index]
        encoded = self._codec.encode(plain, segment.dtype)
        if _whole_words(encoded.numel()) > _SHRINKS * plain.numel():
            return plain, True
        again = torch.empty_like(plain)
        self._run_now(self._codec.decoder(encoded, again, segment.dtype))
        if not torch.equal(again, plain):
            raise CodecError(
                f"codec {self._codec.name!r}: {segment.name!r} ({segment.nbytes:,} bytes, mostly {segment.dtype}) "
                "does not decode to what it was; let the weights travel as they are (codec 'raw')"
            )
        return encoded, False

    def _put_and_keep(self, index: int, put: Callable[..., Encoded], source: str | None, stays: bool) -> Encoded:
        """Put an encoded segment where it goes, and keep it for the next time. Runs in a thread of its own."""
        made = put(stays=stays)
        if self.store is None or source is None:
            return made
        segment = self._cut.segments[index]
        facts = Facts(
            segment=segment.name,
            source=source,
            plain_bytes=segment.nbytes,
            length=made.length,
            nbytes=made.nbytes,
            is_plain=made.is_plain,
            checksum=made.checksum,
            digest=int(digest(made.data)),
        )
        self.store.keep(segment, facts, made.data.cpu())
        return made

    @torch.no_grad()
    def _put(self, encoded: Tensor, *, length: int, is_plain: bool, total: int, stays: bool = False) -> Encoded:
        """Copy encoded bytes to where they go, and wait for it. Runs in any thread."""
        data, arena = self._room(encoded.numel(), on_device=stays)
        with torch.cuda.stream(self._back) if self._back is not None else contextlib.nullcontext():
            data[: encoded.numel()].copy_(encoded, non_blocking=True)
        if self._back is not None:
            self._back.synchronize()
        return Encoded(data=data, length=length, is_plain=is_plain, checksum=total, arena=arena)

    def _take(self, kept: Kept, *, stays: bool) -> Encoded:
        """Return a segment that was kept, where it lies; on the device if it stays, or in memory if it has to."""
        facts = kept.facts
        if not stays and kept.file is not None:
            return Encoded(
                data=kept.data, length=facts.length, is_plain=facts.is_plain, checksum=facts.checksum, file=kept.file
            )
        put = self._put(kept.data, length=facts.length, is_plain=facts.is_plain, total=facts.checksum, stays=stays)
        if kept.file is not None:
            kept.file.close()
        return put

    def _move(self, index: int, *, stays: bool) -> None:
        """Bring a segment from host memory to the device or back, if it is not there."""
        encoded = self._kept[index]
        if stays == encoded.is_on_device:
            return
        moved = self._put(
            encoded.data, length=encoded.length, is_plain=encoded.is_plain, total=encoded.checksum, stays=stays
        )
        self._drop(index)
        self._kept[index] = moved

    def _room(self, nbytes: int, *, on_device: bool) -> tuple[Tensor, HostArena | None]:
        """Return zeros for so many bytes and the words that they fill, on the device or in host memory."""
        if not on_device:
            arena = HostArena(_whole_words(nbytes), pinned=self._device.type == "cuda")
            return arena.buffer, arena
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # or a part of a larger free block is taken, whose rest nobody else can have
        room = torch.zeros(_whole_words(nbytes), dtype=torch.uint8, device=self._device)
        if self._back is not None:
            self._back.wait_stream(torch.cuda.current_stream(self._device))
        return room, None

    def _drop(self, index: int) -> None:
        if self._last is not None and self._last[0] == index:
            self._last = None
        self._kept.pop(index).close()

    def _run_now(self, decode: Decode) -> None:
        """Decode and wait for it. The codec's stream has to see what the current one has put there, and vice versa."""
        stream = self._codec.stream
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
