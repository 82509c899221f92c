"""How a causal language model is cut into layers: its decoder blocks, in the order they run.

The engine streams along this cut and the checks report along it, and neither may import the other;
so it lives to the left of both.
"""

from __future__ import annotations

from torch import nn


def decoder_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return (qualified name, module) of the decoder blocks of `model`, in definition order.

    The blocks are the members of the `nn.ModuleList` (or `nn.Sequential`) that holds the most parameter
    bytes; of two that hold the same, the outer one. A model without such a list has no blocks.
    """
    best: tuple[int, str, nn.Module] | None = None
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        held = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
        if held and (best is None or held > best[0]):
            best = (held, name, module)
    if best is None:
        return []
    _, name, container = best
    return [(f"{name}.{child}" if name else child, module) for child, module in container.named_children()]


def is_of_experts(name: str) -> bool:
    """Tell the name of a weight of a layer's experts, of all together or of one.

    An expert that all tokens use is called otherwise (`shared_experts`).
    """
    return ".experts." in name
