"""Binds a module's parameters and buffers to memory of the engine's choosing, and notes how to undo it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.engine.segments import Cut, PackedTensor
from djinn_checks.errors import EngineError


def bind_parameters(
    model: nn.Module,
    cut: Cut,
    place: Callable[[int], Tensor],
    undo: list[Callable[[], Any]],
    *,
    homes: Callable[[int], Tensor] | None = None,
) -> None:
    """Replace every parameter by one that views its segment's place.

    Args:
        place: gives the bytes (1-d uint8) in which a segment, by index, is used.
        undo: gets the calls that put the very parameters back.
        homes: gives the bytes in which a segment is kept. With it the originals' own storage is freed, and
            undoing reads it back from there, so it is asked then.
    """
    for index, segment in enumerate(cut.segments):
        for tensor in segment.tensors:
            original = model.get_parameter(tensor.names[0])
            bound = nn.Parameter(tensor.view(place(index)), requires_grad=False)
            for name in tensor.names:
                owner, _, leaf = name.rpartition(".")
                module = model.get_submodule(owner)
                module._parameters[leaf] = bound
                undo.append(partial(module._parameters.__setitem__, leaf, original))
            if homes is not None:
                undo.append(partial(_refill, original, original.device, tensor, partial(homes, index)))
                original.data = torch.empty(0, dtype=original.dtype, device=original.device)


def _refill(original: nn.Parameter, device: torch.device, tensor: PackedTensor, home: Callable[[], Tensor]) -> None:
    """Give a parameter its bytes back, in the layout it had."""
    value = tensor.view(home())
    original.data = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device).copy_(value)


def bind_buffers(model: nn.Module, device: torch.device, undo: list[Callable[[], Any]]) -> None:
    """Move buffers to the device: a copy of the values, since computing them there may round otherwise."""
    for module in model.modules():
        for name, buffer in list(module._buffers.items()):
            if buffer is None or buffer.device == device:
                continue
            if buffer.is_meta:
                raise EngineError(
                    f"buffer {name!r} of {type(module).__name__} has no values (it is on `meta`); "
                    "build the module with real buffers, only its parameters may be on `meta`"
                )
            undo.append(partial(module._buffers.__setitem__, name, buffer))
            module._buffers[name] = buffer.to(device)
