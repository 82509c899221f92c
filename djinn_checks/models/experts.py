"""Weights that one token does not use, so that a system need not fetch them: experts, and rows of embeddings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

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


def unpicked_bytes(module: nn.Module) -> int:
    """Return the bytes of a model's table of embeddings less one row.

    0 where another part uses the same table, as a tied head does, or there is none.
    """
    tables = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    table = max(tables, key=lambda part: part.num_embeddings, default=None)
    if table is None:
        return 0
    users = [name for name, value in module.named_parameters(remove_duplicate=False) if value is table.weight]
    row = table.embedding_dim * table.weight.element_size()
    return 0 if len(users) > 1 else (table.num_embeddings - 1) * row


def _find(config: Any, names: tuple[str, ...]) -> int:
    """Return the first of some numbers that a configuration has; 0 if it has none of them."""
    return next(filter(None, (getattr(config, name, None) for name in names)), 0)
