"""One prompt through a model: a prefill, then tokens one by one through the KV cache.

The reference, the reference again and the system go through this same function, so that they do the same
arithmetic on the same shapes and hold the same logits and caches on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from djinn_checks.checks.contract import ask, read_answer

PHASES = ("prefill", "decode")


@dataclass(frozen=True)
class Prompt:
    """A prompt as the models see it."""

    index: int
    text: str
    token_ids: Tensor
    """[1, T] int64 on the device."""


@dataclass(frozen=True)
class PromptLogits:
    """What a model answered to one prompt, in its own dtype."""

    prefill: Tensor
    """[T, V]: logits after each prompt token."""
    decode: Tensor
    """[D, V]: logits after each decoded token."""
    tokens: Tensor
    """[D + 1] int64: the decoded tokens, and the one that would have come next."""

    def phase(self, name: str) -> Tensor:
        """Return the logits of "prefill" or "decode"."""
        return self.prefill if name == "prefill" else self.decode


@torch.no_grad()
def run_prompt(
    model: Any,
    token_ids: Tensor,
    decode_tokens: int,
    *,
    forced: Tensor | None = None,
    needs_cache: bool = False,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> PromptLogits:
    """Run one prompt.

    Args:
        model: called like a Hugging Face causal LM: ids [1, T], `use_cache`, and the cache by the name of its class; it
            returns something with `logits` [1, T, V] and the cache under that name (`decode_cache.CACHE_NAMES`).
        token_ids: [1, T] int64.
        decode_tokens: steps through the KV cache after the prefill.
        forced: [decode_tokens + 1] int64 tokens to feed (teacher forcing); None feeds the most likely one.
        needs_cache: whether it is no model without a cache.
        around: makes the context that each of the 1 + decode_tokens forwards runs in.

    Raises:
        SystemContractError: it returns no such thing.
    """
    with around():
        answer = read_answer(ask(model, token_ids), needs_cache=needs_cache)
    prefill = answer.logits[0].clone()  # a model may write every call's logits to the same place
    tokens = [_next_token(prefill[-1], forced, 0)]
    decode = []
    for step in range(decode_tokens):
        fed = tokens[-1].view(1, 1).to(token_ids.device)
        with around():
            answer = read_answer(ask(model, fed, **answer.carried), needs_cache=False)
        decode.append(answer.logits[0, -1].clone())  # a model may write every step's logits to the same place
        tokens.append(_next_token(decode[-1], forced, step + 1))
    return PromptLogits(prefill, torch.stack(decode), torch.stack(tokens).cpu())


def _next_token(logits: Tensor, forced: Tensor | None, step: int) -> Tensor:
    return logits.argmax() if forced is None else forced[step]
