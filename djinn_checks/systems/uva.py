"""Weights that stay in pinned host memory and are read there by the kernels that use them, over the link.

Unified virtual addressing gives pinned host memory an address that kernels may use; vLLM's `--cpu-offload-gb`
works so by default. Nothing is copied ahead: the link is as full as the kernels keep it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from djinn_checks.engine.host_memory import HostArena
from djinn_checks.errors import SystemUnavailableError
from djinn_checks.layers import decoder_blocks
from djinn_checks.models.checkpoint import tied_names
from djinn_checks.models.open import Model
from djinn_checks.systems.base import System

_ALIGNMENT = 256
"""Bytes; what cuBLAS wants of an address for its widest loads."""


class _DeviceView:
    """Pinned host memory as CUDA's array interface describes it: PyTorch makes a tensor on the device of it."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,), "typestr": "|u1", "data": (address, False), "strides": None, "version": 3,
        }  # fmt: skip


class UvaSystem(System):
    """Keeps on the device what the budget holds, embeddings and head first, and reads the rest in place.

    It copies nothing and so counts nothing; its plan is that each weight in host memory is read once in a pass.
    """

    name = "uva"

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        if device.type != "cuda":
            raise SystemUnavailableError(
                f"system 'uva': reading host memory in place needs a GPU, got device {str(device)!r}; "
                "on a CPU all weights are in host memory"
            )
        skeleton = model.skeleton()
        self._names = {names[0]: (names, weight) for names, weight in tied_names(skeleton).values()}
        inside = {f"{block}.{name}" for block, part in decoder_blocks(skeleton) for name, _ in part.named_parameters()}
        self._hosted: dict[str, int] = {}
        """Where each weight that is read in place starts in the arena."""
        left, end = budget_bytes, 0
        for name in sorted(self._names, key=lambda name: name in inside):
            nbytes = self._names[name][1].numel() * self._names[name][1].element_size()
            if nbytes <= left:
                left -= nbytes
                continue
            self._hosted[name] = end
            end += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        self._arena_bytes = end
        self._arena: HostArena | None = None

    def open(self) -> nn.Module:
        module = self.model.skeleton()
        self._arena = HostArena(self._arena_bytes, pinned=True)
        for name, (names, _) in self._names.items():
            parameter = nn.Parameter(self._place(name, self.model.weights[name]), requires_grad=False)
            for alias in names:
                owner, _, leaf = alias.rpartition(".")
                module.get_submodule(owner)._parameters[leaf] = parameter
        return module.to(self.device)

    def _place(self, name: str, weight: Tensor) -> Tensor:
        if self._arena is None or name not in self._hosted:
            return weight.to(self.device)
        place = self._arena.buffer[self._hosted[name] :][: weight.nbytes]
        place.view(weight.dtype).view(weight.shape).copy_(weight)
        seen = torch.as_tensor(_DeviceView(place.data_ptr(), weight.nbytes), device=self.device)
        return seen.view(weight.dtype).view(weight.shape)

    def predicted_bytes_per_pass(self) -> int | None:
        weights = [self._names[name][1] for name in self._hosted]
        return sum(weight.numel() * weight.element_size() for weight in weights)

    def close(self) -> None:
        if self._arena is not None:
            torch.cuda.synchronize(self.device)
            self._arena.close()
            self._arena = None
