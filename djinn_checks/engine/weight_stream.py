"""One model's weights on their way through device memory, from the first copy until it is closed.

One block of device memory holds the resident segments and, after them, the ring; if segments travel encoded, a zone
where they land comes last. What stays encoded has memory of its own. The cycle of loads is fixed by the residency plan.
A load is issued as soon as the segment whose bytes it overwrites has been used; a segment is waited for only by the
computation that needs it. On CUDA both orders are events between streams and the host waits for neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from djinn_checks.engine.codec import Codec, Decode
from djinn_checks.engine.encoded_weights import EncodedWeights
from djinn_checks.engine.host_memory import HostArena
from djinn_checks.engine.link import Link, Stage
from djinn_checks.engine.plan import Plan, Planner
from djinn_checks.engine.proof import Proof, open_proof
from djinn_checks.engine.route import DecodingRoute, DirectRoute, Route
from djinn_checks.engine.segments import Cut, Weights
from djinn_checks.errors import CopyError


@dataclass(frozen=True, kw_only=True)
class Carriage:
    """How segments travel: over what, and in what form."""

    link_factory: Callable[[torch.device, int], Link]
    """Makes the link from (device, number of loads in the cycle)."""
    stage_factory: Callable[..., Stage]
    """Makes what decodes, from the same and the CUDA stream `stream=` that the codec works on."""
    codec: Codec | None
    """None: weights travel as they are."""
    verify: bool
    """Hold what was decoded against its sum, in every pass."""


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
        self._encoded = EncodedWeights(cut, weights, codec, device) if codec is not None else None
        self.plan: Plan = self._encoded.plan(planner) if self._encoded is not None else planner(cut, None)
        if self._encoded is not None and device.type == "cuda":
            torch.cuda.empty_cache()  # what encoding took does not count beside the plan's memory
        in_one_block = self.plan.device_bytes - self.plan.encoded_bytes
        self._memory = torch.empty(in_one_block, dtype=torch.uint8, device=device)
        self._arena = HostArena(self.plan.host_bytes if self._encoded is None else 0, pinned=device.type == "cuda")
        self._places = self._find_places()
        self._host = self._find_hosts()
        self._read(weights)
        slots = max(1, len(self.plan.loads))
        self.link = carriage.link_factory(device, slots)
        self.stage: Stage | None = None
        self._proof: Proof | None = None
        self._route = self._open_route(carriage)
        self._use = 0  # next use to come, counted from the start
        self._load = 0  # the load that serves it
        self._route.advance(self._load)

    def close(self) -> None:
        """Finish the copies under way, and let go of the device and host memory."""
        self._route.close()
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._host, self._places = {}, {}
        self._arena.close()
        if self._encoded is not None:
            self._encoded.close()

    def _find_places(self) -> dict[int, Tensor]:
        """Return the device bytes in which each segment is used."""
        plan = self.plan
        places = {load.segment: self._memory[plan.resident_bytes + load.offset :][: load.nbytes] for load in plan.loads}
        for segment, offset in zip(plan.resident, plan.resident_offsets, strict=True):
            places[segment] = self._memory[offset : offset + self.cut.segments[segment].nbytes]
        return places

    def _find_hosts(self) -> dict[int, Tensor]:
        """Return the host bytes from which each segment travels that does."""
        travels = [load.segment for load in self.plan.loads if load.segment not in self.plan.stays_encoded]
        streamed = list(dict.fromkeys(travels))
        if self._encoded is not None:
            return {segment: self._encoded[segment].data for segment in streamed}
        sizes = [self.cut.segments[segment].nbytes for segment in streamed]
        return dict(zip(streamed, self._arena.buffer.split(sizes), strict=True)) if streamed else {}

    def _read(self, weights: Weights) -> None:
        for index, segment in enumerate(self.cut.segments):
            if self._encoded is None:
                segment.read(self._host.get(index, self._places[index]), weights)
            elif index in self.plan.resident:
                self._encoded.fill(index, self._places[index])

    def _open_route(self, carriage: Carriage) -> Route:
        loads, plan = self.plan.loads, self.plan
        places = [self._places[load.segment] for load in loads]
        if self._encoded is None or carriage.codec is None or not plan.landings:
            direct = [self._host[load.segment] for load in loads]
            return DirectRoute(plan, self.link, places=places, hosts=direct, copied=self._claim)
        hosts = [self._host.get(load.segment) for load in loads]
        zone = self._memory[plan.resident_bytes + plan.ring_bytes :]
        landings = [zone[step.offset :][: step.nbytes] if step is not None else None for step in plan.landings]
        sums = [self._encoded[load.segment].checksum for load in loads]
        self._proof = open_proof(places, sums) if carriage.verify else None
        decoders = [
            _proven(self._encoded.decoder(load.segment, places[slot], landed=landings[slot]), self._proof, slot)
            for slot, load in enumerate(loads)
        ]
        self.stage = carriage.stage_factory(self._to, len(loads), stream=carriage.codec.stream)
        return DecodingRoute(
            plan, self.link, self.stage, landings=landings, hosts=hosts, decoders=decoders, copied=self._claim
        )

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
        return self._host[segment] if self._encoded is None else self._encoded.plain(segment)

    def acquire(self, use: int) -> None:
        """Order the computation that follows behind the copy that use `use` of the plan needs.

        Uses come in the plan's order. If some are left out (a forward that raised, a part of the model called
        alone), the stream goes on to the use asked for, and the copies in between were made in vain.

        Raises:
            CopyError: the copy failed.
        """
        while self._use % len(self.plan.uses) != use:
            self._finish_use()
        slot = self._load % len(self.plan.loads)
        self._raise_known()
        try:
            self._route.wait(slot)
        except Exception as error:
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
        uses = self.plan.uses
        this, following = uses[self._use % len(uses)][1], uses[(self._use + 1) % len(uses)][1]
        self._use += 1
        if this == following:
            return  # the same copy serves the next use too
        self._route.mark(self._load % len(self.plan.loads))
        self._load += 1
        self._route.advance(self._load)


def _proven(decode: Decode, proof: Proof | None, slot: int) -> Decode:
    return decode if proof is None else partial(_decode_and_prove, decode, proof, slot)


def _decode_and_prove(decode: Decode, proof: Proof, slot: int) -> None:
    decode()
    proof.prove(slot)
