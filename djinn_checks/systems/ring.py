"""The reference engine as a system: a ring buffer of weights."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from djinn_checks.engine.hooks import RingBufferHooks, install_ring_buffer_hooks
from djinn_checks.engine.link import Link
from djinn_checks.engine.pacing import plan_for_pace
from djinn_checks.engine.rehearsal import rehearse
from djinn_checks.engine.residency import plan_residency
from djinn_checks.engine.ring_buffer import WeightRingBuffer
from djinn_checks.engine.segments import cut_model
from djinn_checks.engine.timeline import TimedCudaLink, TimedHostLink, open_timed_link
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
        self._cut = cut_model(self._skeleton, visits)
        places = {point.name: place for place, point in enumerate(self._cut.points)}
        reached = [places[name] for name in visits if name in places]
        self._runs_in_order = all(before < after for before, after in itertools.pairwise(reached))
        self.plan = plan_residency(self._cut, budget_bytes, resident_blocks=resident_blocks)
        self._ring: WeightRingBuffer | None = None
        self._hooks: RingBufferHooks | None = None

    def open(self) -> nn.Module:
        if self.device.type == "cuda" and self._resident_blocks is None and self.plan.loads:
            pace = rehearse(self._skeleton, self._cut, self.device)
            self.plan = plan_for_pace(self._cut, self.budget_bytes, pace) if pace else self.plan
        self._ring = WeightRingBuffer(self.budget_bytes, self.device, link_factory=self._link_factory)
        self._ring.register_model(self.model.name, self.model.weights)
        self._hooks = install_ring_buffer_hooks(
            self._skeleton, self._ring, self.model.name, plan=self.plan, cut=self._cut
        )
        return self._skeleton

    def predicted_bytes_per_pass(self) -> int | None:
        return self.plan.bytes_per_pass if self._runs_in_order else None  # what it comes back to moves again

    def claimed_bytes(self) -> int | None:
        stats: dict[str, Any] = self._ring.get_stats() if self._ring else {}
        return stats.get("bytes_transferred")

    def timeline(self) -> list[dict[str, Any]]:
        """Return the last passes' copies and computations as plain rows, in seconds on CLOCK_MONOTONIC.

        There are none unless the system is open. Each row has layer, bytes, copy_start_s, copy_end_s,
        compute_start_s and compute_end_s.
        """
        stream = self._ring.stream if self._ring is not None else None
        if stream is None or not isinstance(stream.link, TimedCudaLink | TimedHostLink):
            return []
        rows = []
        for span in stream.link.timeline():
            load = stream.plan.loads[span.slot]
            row = dataclasses.asdict(span) | {"layer": stream.cut.segments[load.segment].name, "bytes": load.nbytes}
            del row["slot"]
            rows.append(row)
        return rows

    def close(self) -> None:
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None
