"""Experts of a mixture: a token is routed to some of them, and a system may fetch only those."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from djinn_checks.layers import is_of_experts

_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "moe_topk")
"""What configurations of transformers call the experts of a layer that a token may be routed to, and how many it is."""


def unrouted_bytes(parameters: Iterable[tuple[str, Tensor]], config: Any) -> int:
    """Return the bytes of experts that one token is not routed to; 0 of a model without experts.

    Args:
        parameters: all of the model, by name.
        config: of transformers, or None; it says how many experts a layer has, and how many of them a token is routed
            to.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config  # None has no experts either
    experts, chosen = (_find(text, names) for names in (_COUNTS, _CHOSEN))
    if not experts or not chosen or chosen >= experts:
        return 0
    of_experts = sum(value.numel() * value.element_size() for name, value in parameters if is_of_experts(name))
    return int(of_experts * (experts - chosen) // experts)


def _find(config: Any, names: tuple[str, ...]) -> int:
    """Return the first of some numbers that a configuration has; 0 if it has none of them."""
    return next(filter(None, (getattr(config, name, None) for name in names)), 0)
