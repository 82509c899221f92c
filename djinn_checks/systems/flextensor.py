"""NVIDIA's FlexTensor: decoder blocks prefetched into a few blocks of device memory, by a plan that it profiles."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from djinn_checks.errors import SystemNotInstalledError, SystemUnavailableError
from djinn_checks.layers import decoder_blocks
from djinn_checks.models.open import Model
from djinn_checks.systems.base import System


class FlexTensorSystem(System):
    """Takes the budget as its share of the device's memory (`max_gpu_mem_fraction`). It keeps no count of bytes."""

    name = "flextensor"

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        if importlib.util.find_spec("flextensor") is None:
            raise SystemNotInstalledError("system 'flextensor' is not installed; `pip install djinn-checks[peers]`")
        if device.type != "cuda":
            raise SystemUnavailableError(f"system 'flextensor': offloading needs a GPU, got device {str(device)!r}")
        self._opened = False

    def open(self) -> Any:
        import flextensor  # seconds to import, and needed by this system alone

        module = self.model.resident(torch.device("cpu"))
        blocks = decoder_blocks(module)[0][0].rpartition(".")[0]
        _move_all_but(module, blocks, self.device)
        total = torch.cuda.get_device_properties(self.device).total_memory
        config = flextensor.OffloadConfig(
            gpu_device=self.device.index or 0,
            include_patterns=[f"{blocks}.*"],
            max_gpu_mem_fraction=max(0.001, min(1.0, self.budget_bytes / total)),
        )
        proxy = flextensor.offload(module, config)
        self._opened = True
        ids = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        with torch.no_grad():
            for _ in range(flextensor.get_offload_manager().iters_before_inference + 1):
                proxy(ids, use_cache=False)  # it watches, then profiles, then plans
        return proxy

    def close(self) -> None:
        if self._opened:
            import flextensor

            flextensor.get_offload_manager().release(preserve_model=False)
            self._opened = False


def _move_all_but(module: nn.Module, name: str, device: torch.device) -> None:
    """Move every weight and buffer of `module` to `device` but those under the submodule `name`."""
    for path, part in module.named_modules():
        if path == name or path.startswith(f"{name}."):
            continue
        for kept in (part._parameters, part._buffers):
            for leaf, tensor in kept.items():
                if tensor is not None:
                    tensor.data = tensor.data.to(device)
                    kept[leaf] = tensor
