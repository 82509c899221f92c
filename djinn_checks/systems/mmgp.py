"""mmgp ("memory management for the GPU poor"): blocks loaded from pinned memory as they are called."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from djinn_checks.errors import SystemNotInstalledError, SystemUnavailableError
from djinn_checks.models.open import Model
from djinn_checks.systems.base import System
from djinn_checks.units import MIB


class MmgpSystem(System):
    """Gives mmgp half of the budget, which it says that it uses twice. It keeps no count of bytes."""

    name = "mmgp"

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        if importlib.util.find_spec("mmgp") is None:
            raise SystemNotInstalledError("system 'mmgp' is not installed; `pip install mmgp`")
        if device.type != "cuda":
            raise SystemUnavailableError(f"system 'mmgp': offloading needs a GPU, got device {str(device)!r}")
        self._offload: Any = None

    def open(self) -> nn.Module:
        from mmgp import offload  # it patches safetensors when it is imported

        module = self.model.resident(torch.device("cpu"))
        self._offload = offload.all(
            {"transformer": module},
            pinnedMemory=True,
            quantizeTransformer=False,
            convertWeightsFloatTo=None,
            budgets={"*": max(1, self.budget_bytes // 2 // MIB)},  # a plain number is not read (3.8.2)
            asyncTransfers=True,
        )
        torch.set_default_device(None)  # it leaves "cuda" behind for everybody
        return module

    def close(self) -> None:
        if self._offload is not None:
            self._offload.release()
            torch.set_default_device(None)
            self._offload = None
