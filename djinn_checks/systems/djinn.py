"""Djinn's own ring buffer, if its package is installed.

Its interface, as published: `WeightRingBuffer.register_model(model_id, state_dict)`,
`install_ring_buffer_hooks(model, ring_buffer, model_id, streamer)`, a `WeightStreamer` with `start` and
`stop`, and `ring.get_stats()["bytes_transferred"]`.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from djinn_checks.errors import SystemNotInstalledError
from djinn_checks.models.open import Model
from djinn_checks.systems.base import System

_PACKAGE = "djinn.backend.runtime"


class DjinnSystem(System):
    """Streams through Djinn's ring buffer of `budget_bytes`; its byte count is a claim like any other."""

    name = "djinn"

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        self._ring_class = _find("ring_buffer", "WeightRingBuffer")
        self._streamer_class = _find("weight_streamer", "WeightStreamer")
        self._install_hooks = _find("weight_hooks", "install_ring_buffer_hooks")
        self._module: nn.Module | None = None
        self._ring: Any = None
        self._streamer: Any = None

    def open(self) -> nn.Module:
        self._module = self.model.resident(torch.device("cpu"))
        self._ring = self._ring_class(self.budget_bytes, self.device)
        self._ring.register_model(self.model.name, self._module.state_dict())
        self._streamer = self._streamer_class(self._ring, self.device)
        self._streamer.start()
        self._install_hooks(self._module, self._ring, self.model.name, self._streamer)
        return self._module

    def claimed_bytes(self) -> int | None:
        stats = self._ring.get_stats() if self._ring is not None else {}
        claimed = stats.get("bytes_transferred")
        return None if claimed is None else int(claimed)

    def close(self) -> None:
        if self._streamer is not None:
            self._streamer.stop()
        self._module = self._ring = self._streamer = None


def _find(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name)
    except (ImportError, AttributeError) as error:
        raise SystemNotInstalledError(
            f"system 'djinn' is not installed: {_PACKAGE}.{module}.{name} cannot be imported ({error}); "
            "install Djinn into this environment, or choose another system"
        ) from error
