"""The reference engine as a system: a ring buffer of weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from djinn_checks.engine.hooks import RingBufferHooks, install_ring_buffer_hooks
from djinn_checks.engine.residency import plan_residency
from djinn_checks.engine.ring_buffer import WeightRingBuffer
from djinn_checks.engine.segments import cut_model
from djinn_checks.models import Model
from djinn_checks.systems.base import System


class RingSystem(System):
    """Streams a model's weights through a `WeightRingBuffer` of `budget_bytes`."""

    name = "ring"

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        self._skeleton = model.skeleton()
        self.plan = plan_residency(cut_model(self._skeleton), budget_bytes)
        self._ring: WeightRingBuffer | None = None
        self._hooks: RingBufferHooks | None = None

    def open(self) -> nn.Module:
        self._ring = WeightRingBuffer(self.budget_bytes, self.device)
        self._ring.register_model(self.model.name, self.model.weights)
        self._hooks = install_ring_buffer_hooks(self._skeleton, self._ring, self.model.name)
        return self._skeleton

    def predicted_bytes_per_pass(self) -> int | None:
        return self.plan.bytes_per_pass

    def claimed_bytes(self) -> int | None:
        stats: dict[str, Any] = self._ring.get_stats() if self._ring else {}
        return stats.get("bytes_transferred")

    def close(self) -> None:
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None
