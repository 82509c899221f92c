"""RamTorch's `OffloadModel`: decoder blocks streamed through a sliding window, the rest resident."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.errors import CapacityError, SystemNotInstalledError
from djinn_checks.layers import decoder_blocks
from djinn_checks.models.open import Model
from djinn_checks.systems.base import System
from djinn_checks.units import format_bytes

_WINDOW = 2


class _Block(nn.Module):
    """One block as RamTorch wants it: a tensor in, a tensor out; all else comes from the stack's call."""

    def __init__(self, block: nn.Module, call: dict[str, Any]) -> None:
        super().__init__()
        self.block = block
        self._call = call

    def forward(self, hidden: Tensor) -> Tensor:
        output = self.block(hidden, *self._call["args"], **self._call["kwargs"])
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result


class _Stack(nn.Module):
    """All blocks as one: it takes their place in the model's list."""

    def __init__(self, blocks: list[nn.Module], device: torch.device, pinned: int) -> None:
        super().__init__()
        from ramtorch.offload import OffloadModel

        self._call: dict[str, Any] = {}
        chunks = [_Block(block, self._call) for block in blocks]
        self.offload = OffloadModel(chunks, device=device, window=_WINDOW, pin=pinned)

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._call.update(args=args, kwargs=kwargs)
        result: Tensor = self.offload(hidden)
        return result


class RamTorchSystem(System):
    """Keeps as many blocks on the device as the budget holds beside a window of two; counts its loads."""

    name = "ramtorch"

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        if importlib.util.find_spec("ramtorch") is None:
            raise SystemNotInstalledError(
                "system 'ramtorch' is not installed; `pip install djinn-checks[peers]` brings it"
            )
        blocks = decoder_blocks(model.skeleton())
        self._block_bytes = max(_nbytes(block) for _, block in blocks)
        outer_bytes = model.weight_bytes - sum(_nbytes(block) for _, block in blocks)
        fitting = (budget_bytes - outer_bytes) // self._block_bytes - _WINDOW
        if fitting < 0:
            needed = outer_bytes + _WINDOW * self._block_bytes
            raise CapacityError(
                f"system 'ramtorch': a device budget of {format_bytes(budget_bytes)} does not hold embeddings and head "
                f"beside a window of {_WINDOW} blocks; give at least {format_bytes(needed)}"
            )
        self._pinned = min(fitting, len(blocks))
        self._streamed = len(blocks) - self._pinned
        self._stack: _Stack | None = None
        self._module: nn.Module | None = None

    def open(self) -> nn.Module:
        module = self.model.resident(torch.device("cpu"))
        blocks = decoder_blocks(module)
        owner, _, name = blocks[0][0].rpartition(".")[0].rpartition(".")
        parent = module.get_submodule(owner)
        setattr(parent, name, nn.ModuleList())
        module.to(self.device)
        self._stack = _Stack([block for _, block in blocks], self.device, self._pinned)
        setattr(parent, name, nn.ModuleList([self._stack]))
        self._module = module
        return module

    def predicted_bytes_per_pass(self) -> int | None:
        return self._streamed * self._block_bytes

    def claimed_bytes(self) -> int | None:
        return None if self._stack is None else int(self._stack.offload.stats["loads"]) * self._block_bytes

    def close(self) -> None:
        if self._stack is not None:
            self._stack.offload.close()
        self._stack = self._module = None


def _nbytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
