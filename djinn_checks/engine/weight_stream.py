"""One model's weights on their way through device memory, from the first copy until it is closed.

One block of device memory holds the resident segments and, after them, the ring; if segments travel encoded, a zone
where they land comes last. What stays encoded has memory of its own. The cycle of loads is fixed by the residency plan.
A load is issued as soon as the segment whose bytes it overwrites has been used; a segment is waited for only by the
computation that needs it. On CUDA both orders are events between streams and the host waits for neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from djinn_checks.engine.codec import Codec, Decode
from djinn_checks.engine.encoded_weights import EncodedWeights
from djinn_checks.engine.host_weights import HostWeights
from djinn_checks.engine.link import Link, Stage
from djinn_checks.engine.plan import Plan, Planner
from djinn_checks.engine.proof import Proof, open_proof
from djinn_checks.engine.route import DecodingRoute, DirectRoute, Route
from djinn_checks.engine.segment_reader import SegmentReader
from djinn_checks.engine.segments import Cut, Weights
from djinn_checks.errors import CopyError


@dataclass(frozen=True, kw_only=True)
class Carriage:
    """How segments travel: over what, and in what form."""

    link_factory: Callable[[torch.device, int], Link]
    """Makes the link from (device, number of loads in the cycle)."""
    stage_factory: Callable[..., Stage]
    """Makes what decodes, from the same and the CUDA stream `stream=` that it does so on."""
    codec: Codec | None
    """None: weights travel as they are."""
    verify: bool
    """Hold what was decoded against its sum, in every pass."""
    folder: Path | None = None
    """Where encoded segments are kept for the next time; None: they are not."""


@dataclass(kw_only=True)
class Claimed:
    """What has been given to the link, by all streams of one ring buffer."""

    nbytes: int = 0
    copies: int = 0


class WeightStream:
    """Streams the segments of one model. It exists for as long as the model's hooks are installed.

    Attributes:
        model_id: the name under which the model was registered.
        plan: what stays and what streams.
        link: what the copies are given to.
        stage: what decodes; None if weights travel as they are.
        host: where the streamed weights lie; None with a codec.
    """

    def __init__(
        self,
        model_id: str,
        cut: Cut,
        planner: Planner,
        weights: Weights,
        *,
        device: torch.device,
        carriage: Carriage,
        claimed: Claimed,
    ) -> None:
        """Encode what is to travel so, take the memory, read the weights into it and start the first copies.

        Args:
            planner: makes the plan, once the bytes on the wire are known.
            claimed: is counted up with each copy.

        Raises:
            EngineError: a weight is missing, has another shape or dtype, or memory cannot be had.
        """
        self.model_id, self.cut = model_id, cut
        self._to, self._claimed = device, claimed
        codec = carriage.codec
        self._encoded = (
            EncodedWeights(cut, weights, codec, device, folder=carriage.folder) if codec is not None else None
        )
        self.plan: Plan = self._encoded.plan(planner) if self._encoded is not None else planner(cut, None)
        if self._encoded is not None and device.type == "cuda":
            torch.cuda.empty_cache()  # what encoding took does not count beside the plan's memory
        in_one_block = self.plan.device_bytes - self.plan.encoded_bytes
        self._memory = torch.empty(in_one_block, dtype=torch.uint8, device=device)
        self._places = self._find_places()
        self._read(weights)  # before pages are registered: such calls hold up others that pin memory
        self.host: HostWeights | None = None
        self._host: dict[int, Tensor] = {}
        if self._encoded is None:
            streamed = {load.segment: cut.segments[load.segment] for load in self.plan.loads}
            is_cuda = device.type == "cuda"
            ring = self._memory[self.plan.resident_bytes :]  # nothing is there yet
            self.host = HostWeights(streamed, weights, pinned=is_cuda, scratch=ring if is_cuda else None)
            self.plan = self._count_moves(self.host)
            self._home = self.host.whole
        else:
            self._host = self._find_hosts(self._encoded)
            self._home = self._encoded.plain
        self._copies = self._list_copies()
        self.link = carriage.link_factory(device, max(1, len(self.copies)))
        self.stage: Stage | None = None
        self._proof: Proof | None = None
        self._route = self._open_route(carriage)
        self._use = 0  # next use to come, counted from the start
        self._load = 0  # the load that serves it
        self._route.advance(self._load)
        if self.host is not None:
            self.host.register_rest()

    def close(self) -> None:
        """Finish the copies under way, and let go of the device and host memory."""
        self._route.close()
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._host, self._places, self._copies = {}, {}, []
        if self.host is not None:
            self.host.close()
        if self._encoded is not None:
            self._encoded.close()

    def _find_places(self) -> dict[int, Tensor]:
        """Return the device bytes in which each segment is used."""
        plan = self.plan
        places = {load.segment: self._memory[plan.resident_bytes + load.offset :][: load.nbytes] for load in plan.loads}
        for segment, offset in zip(plan.resident, plan.resident_offsets, strict=True):
            places[segment] = self._memory[offset : offset + self.cut.segments[segment].nbytes]
        return places

    def _find_hosts(self, encoded: EncodedWeights) -> dict[int, Tensor]:
        """Return the host bytes from which each segment travels that does."""
        travels = {load.segment for load in self.plan.loads} - self.plan.stays_encoded
        return {segment: encoded[segment].data for segment in sorted(travels)}

    def _count_moves(self, host: HostWeights) -> Plan:
        """Return the plan with the bytes that its copies move: in a file, nothing lies between weights."""
        loads = self.plan.loads
        moves = tuple(sum(piece.host.numel() for piece in host.pieces[load.segment]) for load in loads)
        return self.plan if moves == self.plan.wire_sizes else replace(self.plan, moves=moves)

    def _list_copies(self) -> list[list[tuple[Tensor, Tensor]]]:
        """Return the copies of each load that goes straight into its place: where to, and from where."""
        if self.plan.landings:
            return []
        if self.host is None:
            return [[(self._places[load.segment], self._host[load.segment])] for load in self.plan.loads]
        return [
            [(self._places[load.segment][piece.offset :][: piece.host.numel()], piece.host) for piece in pieces]
            for load in self.plan.loads
            for pieces in [self.host.pieces[load.segment]]
        ]

    @property
    def copies(self) -> list[tuple[int, int]]:
        """The cycle of copies that the link is given: the load that each belongs to, and its bytes."""
        if self.plan.landings:
            return list(enumerate(self.plan.wire_sizes))
        return [(load, host.numel()) for load, pieces in enumerate(self._copies) for _, host in pieces]

    def _read(self, weights: Weights) -> None:
        """Put what stays into its place."""
        if self._encoded is not None:
            self._encoded.fill(self.plan.resident, self._places)
            return
        if self._to.type == "cuda":  # the readers' streams do not know of what this memory was used for before
            torch.cuda.current_stream(self._to).synchronize()
        with SegmentReader(weights, self._to) as reader:
            for index in self.plan.resident:
                reader.read(self.cut.segments[index], self._places[index])

    def _open_route(self, carriage: Carriage) -> Route:
        loads, plan = self.plan.loads, self.plan
        if self._encoded is None or carriage.codec is None or not plan.landings:
            return DirectRoute(plan, self.link, copies=self._copies, copied=self._claim, ready=self._wait_for_pages)
        places = [self._places[load.segment] for load in loads]
        hosts = [self._host.get(load.segment) for load in loads]
        zone = self._memory[plan.resident_bytes + plan.ring_bytes :]
        landings = [zone[step.offset :][: step.nbytes] if step is not None else None for step in plan.landings]
        sums = [self._encoded[load.segment].checksum for load in loads]
        segments = [self.cut.segments[load.segment] for load in loads]
        self._proof = open_proof(segments, places, sums) if carriage.verify else None
        decoders = [
            _proven(self._encoded.decoder(load.segment, places[slot], landed=landings[slot]), self._proof, slot)
            for slot, load in enumerate(loads)
        ]
        computes_on = torch.cuda.current_stream(self._to) if self._to.type == "cuda" else None
        self.stage = carriage.stage_factory(self._to, len(loads), stream=computes_on)
        return DecodingRoute(
            plan, self.link, self.stage, landings=landings, hosts=hosts, decoders=decoders, copied=self._claim
        )

    def _wait_for_pages(self, load: int) -> None:
        if self.host is not None:
            self.host.wait(self.plan.loads[load].segment)

    def _claim(self, nbytes: int) -> None:
        self._claimed.nbytes += nbytes
        self._claimed.copies += 1

    def place(self, segment: int) -> Tensor:
        """Return the device bytes where a segment is found when it is used (1-d uint8)."""
        return self._places[segment]

    def plain(self, segment: int) -> Tensor:
        """Return the bytes of a segment, wherever and however it is kept.

        Raises:
            CodecError: it is kept encoded, and its bytes changed.
        """
        if segment in self.plan.resident:
            return self._places[segment]
        return self._home(segment)

    def acquire(self, use: int) -> None:
        """Order the computation that follows behind the copy that use `use` of the plan needs.

        Uses come in the plan's order. If some are left out (a forward that raised, a part of the model called
        alone), the stream goes on to the use asked for, and the copies in between were made in vain.

        Raises:
            CopyError: the copy failed. Whoever needs these bytes next gets a copy of its own.
        """
        while self._use % len(self.plan.uses) != use:
            self._finish_use()
        slot = self._load % len(self.plan.loads)
        self._raise_known()
        try:
            self._route.wait(slot)
        except Exception as error:
            self._give_up_load()
            segment = self.cut.segments[self.plan.loads[slot].segment]
            raise CopyError(
                f"copy of {segment.name!r} ({segment.nbytes:,} bytes) to {self._to} failed: {error}"
            ) from error

    def _raise_known(self) -> None:
        wrong = self._proof.known_wrong() if self._proof is not None else None
        if wrong is not None:
            segment = self.cut.segments[self.plan.loads[wrong].segment]
            raise CopyError(
                f"copy of {segment.name!r} ({segment.nbytes:,} bytes) to {self._to} did not decode to what it was, in "
                "this forward or the one before, whose results are NaN; the encoded bytes changed in host memory or on "
                "their way: load the model again"
            )

    def release(self, use: int) -> None:
        """Say that the computation of `use` is enqueued: its bytes may be overwritten behind it."""
        if self._use % len(self.plan.uses) == use:
            self._finish_use()

    def _finish_use(self) -> None:
        load = self._load_in_use()
        self._use += 1
        if self._load_in_use() != load:  # or the same copy serves the next use too
            self._finish_load()

    def _give_up_load(self) -> None:
        """Leave out all uses of a load that failed: its place holds old bytes, and must not be taken for filled."""
        load = self._load_in_use()
        for _ in self.plan.uses:
            self._use += 1
            if self._load_in_use() != load:
                break
        self._finish_load()

    def _load_in_use(self) -> int:
        return self.plan.uses[self._use % len(self.plan.uses)][1]

    def _finish_load(self) -> None:
        self._route.mark(self._load % len(self.plan.loads))
        self._load += 1
        self._route.advance(self._load)


def _proven(decode: Decode, proof: Proof | None, slot: int) -> Decode:
    return decode if proof is None else partial(_decode_and_prove, decode, proof, slot)


def _decode_and_prove(decode: Decode, proof: Proof, slot: int) -> None:
    decode()
    proof.prove(slot)
