"""diffusers' group offloading with `use_stream`: blocks fetched one ahead, from pinned host memory."""

from __future__ import annotations

import importlib.util
from typing import Any, ClassVar

import torch
from torch import nn

from djinn_checks.errors import SystemNotInstalledError, SystemUnavailableError
from djinn_checks.layers import decoder_blocks
from djinn_checks.models.open import Model
from djinn_checks.systems.base import System


class DiffusersSystem(System):
    """Ignores the budget: every block streams, all else stays. It keeps no count of bytes."""

    name = "diffusers"
    options: ClassVar[dict[str, Any]] = {}
    """Of `apply_group_offloading`, beside those that all variants share."""

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        if importlib.util.find_spec("diffusers") is None:
            raise SystemNotInstalledError(
                f"system {self.name!r} is not installed; `pip install djinn-checks[peers]` brings it"
            )
        if device.type != "cuda":
            raise SystemUnavailableError(
                f"system {self.name!r}: group offloading with use_stream needs a GPU, got device {str(device)!r}"
            )
        self._module: nn.Module | None = None

    def open(self) -> nn.Module:
        from diffusers.hooks import apply_group_offloading  # seconds to import, and needed by this system alone

        module = self.model.resident(torch.device("cpu"))
        parent = decoder_blocks(module)[0][0].rpartition(".")[0].rpartition(".")[0]
        apply_group_offloading(
            module.get_submodule(parent),
            onload_device=self.device,
            offload_device=torch.device("cpu"),
            offload_type="block_level",
            num_blocks_per_group=1,
            use_stream=True,
            **self.options,
        )
        for name, child in module.named_children():
            if name != parent.partition(".")[0]:
                child.to(self.device)
        self._module = module
        return module

    def predicted_bytes_per_pass(self) -> int | None:
        blocks = [block for _, block in decoder_blocks(self.model.skeleton())]
        return sum(p.numel() * p.element_size() for block in blocks for p in block.parameters())

    def close(self) -> None:
        self._module = None


class RecordingDiffusersSystem(DiffusersSystem):
    """The same without a wait of the host: copies do not block, and the allocator is told which stream reads them."""

    name = "diffusers-record-stream"
    options: ClassVar[dict[str, Any]] = {"record_stream": True, "non_blocking": True}
