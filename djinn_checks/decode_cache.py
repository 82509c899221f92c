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
        value = getattr(output, name, None)
        if value is not None:
            return {name: value}
    return {}


def explain_no_cache(model: Any, token_ids: Any) -> str:
    """Tell why decoding with `model` would prove nothing about a cache; empty if a cache is used.

    A token is decoded after `token_ids`, and the same token alone. It differs from the last one before it, so that the
    answers are the same only if what was carried over does not count.

    Args:
        token_ids: [1, T] int64 tokens.
    """
    first = model(token_ids, use_cache=True)
    carried = carried_over(first)
    if not carried:
        return f"the model keeps no cache: its output has none of {', '.join(CACHE_NAMES)}"
    token = (token_ids[:, -1:] + 1) % first.logits.shape[-1]
    after, alone = (model(token, **context, use_cache=True).logits for context in (carried, {}))
    if bool((after[0, -1] == alone[0, -1]).all()):
        return (
            f"the model gives {next(iter(carried))} back and does not use it: a token with it says what it says alone"
        )
    return ""
