"""Hugging Face Accelerate's `cpu_offload`: weights fetched from the host module by module."""

from __future__ import annotations

import torch
from torch import nn

from djinn_checks.errors import SystemUnavailableError
from djinn_checks.models.open import Model
from djinn_checks.systems.base import System


class AccelerateSystem(System):
    """Ignores the budget: one module's weights at a time are on the device. It keeps no count of bytes."""

    name = "accelerate"

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        if device.type != "cuda":
            raise SystemUnavailableError(
                f"system 'accelerate': cpu_offload needs a GPU to offload from, got device {str(device)!r}; "
                "on a CPU it hands the host's weights through and moves nothing"
            )
        self._module: nn.Module | None = None

    def open(self) -> nn.Module:
        from accelerate import cpu_offload  # seconds to import, and needed by this system alone

        self._module = self.model.resident(torch.device("cpu"))
        cpu_offload(self._module, execution_device=self.device, offload_buffers=False)
        return self._module

    def close(self) -> None:
        from accelerate.hooks import remove_hook_from_module

        if self._module is not None:
            remove_hook_from_module(self._module, recurse=True)
            self._module = None
