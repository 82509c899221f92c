"""What a causal language model gives back for its next token, by whatever name its class calls it.

Attention keeps keys and values as `past_key_values`, Mamba keeps its state as `cache_params`, RWKV as `state`, XLNet as
`mems`, Reformer as `past_buckets_states`. What comes out under a name goes in again under the same one. The engine and
the checks both decode, and neither may import the other; so it lives to the left of both.
"""

from __future__ import annotations

from typing import Any

CACHE_NAMES = ("past_key_values", "cache_params", "state", "mems", "past_buckets_states")


def carried_over(output: Any) -> dict[str, Any]:
    """Return the arguments with which the next forward goes on where this one ended; empty if there is nothing to."""
    for name in CACHE_NAMES:
        value = read_part(output, name)
        if value is not None:
            return {name: value}
    return {}


def read_part(output: Any, name: str) -> Any | None:
    """Return a part of a forward's output by its name; None if it has none such."""
    try:
        return getattr(output, name, None)
    except KeyError:  # as of a dictionary that gives its entries as attributes
        return None
