"""The reference engine as a system: a ring buffer of weights, which travel as they are or losslessly compressed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from djinn_checks.engine.codec import Codec
from djinn_checks.engine.codecs import default_codec_name, open_codec
from djinn_checks.engine.hooks import RingBufferHooks, install_ring_buffer_hooks
from djinn_checks.engine.host_weights import Source, foresee_sources, order_by_file
from djinn_checks.engine.link import Link
from djinn_checks.engine.pacing import Pace, plan_for_pace
from djinn_checks.engine.plan import Plan
from djinn_checks.engine.rehearsal import rehearse
from djinn_checks.engine.residency import plan_fewest_bytes, plan_residency
from djinn_checks.engine.ring_buffer import WeightRingBuffer
from djinn_checks.engine.segments import Cut, cut_model
from djinn_checks.engine.timeline import Step, TimedCudaLink, TimedHostLink, join_timelines, open_timed_link
from djinn_checks.engine.weight_stream import WeightStream
from djinn_checks.models.open import Model
from djinn_checks.systems.base import System


class RingSystem(System):
    """Streams a model's weights through a `WeightRingBuffer` of `budget_bytes`."""

    name = "ring"

    def __init__(
        self,
        model: Model,
        *,
        device: torch.device,
        budget_bytes: int,
        resident_blocks: int | None = None,
        link_factory: Callable[[torch.device, int], Link] = open_timed_link,
    ) -> None:
        """Plan as `System` does.

        Args:
            resident_blocks: keep exactly this many blocks. Without it the plan is made anew on a GPU when the
                system opens, from times that are measured there.
            link_factory: makes the link from (device, number of copies in the cycle).
        """
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        self._skeleton = model.skeleton()
        self._resident_blocks = resident_blocks
        self._link_factory = link_factory
        visits = getattr(model, "visits", ())
        readers = getattr(model, "readers", {})
        self._cut = cut_model(self._skeleton, visits, readers, order=order_by_file(model.weights))
        places = {point.name: place for place, point in enumerate(self._cut.points)}
        reached = [places[name] for name in visits if name in places]
        self._runs_in_order = all(before < after for before, after in itertools.pairwise(reached))
        self.plan = plan_residency(self._cut, budget_bytes, resident_blocks=resident_blocks)
        self._ring: WeightRingBuffer | None = None
        self._hooks: RingBufferHooks | None = None

    def open(self) -> nn.Module:
        pace = self._rehearse(None)
        self.plan = plan_for_pace(self._cut, self.budget_bytes, pace) if pace else self.plan
        return self._stream(
            WeightRingBuffer(self.budget_bytes, self.device, link_factory=self._link_factory), self.plan
        )

    @property
    def rehearses(self) -> bool:
        """Whether times are measured when the system opens, and the plan made anew by them.

        A budget that keeps no block on the device leaves nothing to choose, unless blocks may stay there encoded.
        """
        can_choose = self.encodes or any(self._cut.segments[index].is_block for index in self.plan.resident)
        is_asked = self._resident_blocks is None and bool(self.plan.loads)
        return self.device.type == "cuda" and is_asked and can_choose

    def _rehearse(self, codec: Codec | None) -> Pace | None:
        if not self.rehearses:
            return None
        return rehearse(self._skeleton, self._cut, self.device, codec=codec)

    def _stream(self, ring: WeightRingBuffer, plan: Any) -> nn.Module:
        self._ring = ring
        self._ring.register_model(self.model.name, self.model.weights)
        self._hooks = install_ring_buffer_hooks(self._skeleton, self._ring, self.model.name, plan=plan, cut=self._cut)
        if ring.stream is not None:
            self.plan = ring.stream.plan
        return self._skeleton

    def sources(self) -> tuple[Source, ...]:
        """Return where the weights lie that travel as they are, and why there; before the system is open, would lie."""
        stream = self._ring.stream if self._ring is not None else None
        if stream is not None:
            return stream.host.sources if stream.host is not None else ()
        streamed = [self._cut.segments[index] for index in sorted({load.segment for load in self.plan.loads})]
        return foresee_sources(streamed, self.model.weights, pinned=self.device.type == "cuda")

    def predicted_bytes_per_pass(self) -> int | None:
        return self.plan.bytes_per_pass if self._runs_in_order else None  # what it comes back to moves again

    def claimed_bytes(self) -> int | None:
        stats: dict[str, Any] = self._ring.get_stats() if self._ring else {}
        return stats.get("bytes_transferred")

    def timeline(self) -> list[dict[str, Any]]:
        """Return the last passes' copies and computations as plain rows, in seconds on CLOCK_MONOTONIC.

        There are none unless the system is open. Each row has layer, bytes (that travelled), copy_start_s, copy_end_s,
        compute_start_s and compute_end_s; if the weights travel encoded, weight_bytes, decode_start_s and decode_end_s
        as well.
        """
        stream = self._ring.stream if self._ring is not None else None
        return [_row(stream, step) for step in _steps(stream)] if stream is not None else []

    def close(self) -> None:
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None


class EncodedRingSystem(RingSystem):
    """Streams a model's weights through a `WeightRingBuffer`, losslessly compressed on their way.

    On a GPU nvCOMP's ANS decodes them (the extra `codec`), on a CPU a codec of the standard library, so that the same
    code runs. How many bytes travel is known once the weights are encoded, which `open` does.
    """

    name = "ring-ans"
    encodes = True

    def __init__(
        self,
        model: Model,
        *,
        device: torch.device,
        budget_bytes: int,
        resident_blocks: int | None = None,
        verify: bool = True,
        folder: Path | None = None,
        link_factory: Callable[[torch.device, int], Link] = open_timed_link,
    ) -> None:
        """Plan as `RingSystem` does, for weights that travel as they are: a budget that cannot hold those is refused.

        Args:
            verify: hold what was decoded against a sum of what was encoded, in every pass.
            folder: where encoded weights are kept for the next time; None: they are not.

        Raises:
            SystemNotInstalledError: there is a GPU, and nvCOMP is missing.
        """
        super().__init__(
            model,
            device=device,
            budget_bytes=budget_bytes,
            resident_blocks=resident_blocks,
            link_factory=link_factory,
        )
        self._verify, self._folder = verify, folder
        self._codec = open_codec(default_codec_name(device), device)
        self._planned: Plan | None = None

    def open(self) -> nn.Module:
        pace = self._rehearse(self._codec)

        def planner(cut: Cut, wire_bytes: Sequence[int] | None) -> Plan:
            if pace is not None:
                return plan_for_pace(cut, self.budget_bytes, pace, wire_bytes=wire_bytes)
            if self._resident_blocks is None:
                return plan_fewest_bytes(cut, self.budget_bytes, wire_bytes=wire_bytes)
            return plan_residency(cut, self.budget_bytes, resident_blocks=self._resident_blocks, wire_bytes=wire_bytes)

        ring = WeightRingBuffer(
            self.budget_bytes,
            self.device,
            codec=self._codec,
            verify=self._verify,
            folder=self._folder,
            link_factory=self._link_factory,
            stage_factory=open_timed_link,
        )
        module = self._stream(ring, planner)
        self._planned = self.plan
        return module

    def predicted_bytes_per_pass(self) -> int | None:
        """Return the bytes on the wire of one forward; None before the system was open."""
        return self._planned.bytes_per_pass if self._planned is not None else None


def _steps(stream: WeightStream) -> list[Step]:
    if not isinstance(stream.link, TimedCudaLink | TimedHostLink):
        return []
    if stream.stage is None:
        return join_timelines(stream.link.timeline(), None)
    if not isinstance(stream.stage, TimedCudaLink | TimedHostLink):
        return []
    return join_timelines(stream.link.timeline(), stream.stage.timeline())


def _row(stream: WeightStream, step: Step) -> dict[str, Any]:
    number, nbytes = stream.copies[step.slot]
    load = stream.plan.loads[number]
    row: dict[str, Any] = {
        "layer": stream.cut.segments[load.segment].name,
        "bytes": nbytes,
        "copy_start_s": step.copy_s[0],
        "copy_end_s": step.copy_s[1],
        "compute_start_s": step.compute_s[0],
        "compute_end_s": step.compute_s[1],
    }
    if step.decode_s is None:
        return row
    return row | {"weight_bytes": load.nbytes, "decode_start_s": step.decode_s[0], "decode_end_s": step.decode_s[1]}
