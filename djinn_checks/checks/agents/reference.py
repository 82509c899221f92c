"""The model itself, resident and outside the server: what it makes of the texts.

Coherence is never judged by an absolute gate: the text after a sleep is as likely under the resident model as
its twin's, or it is not; and repetition is compared with the twin's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from djinn_checks.attention import reproducible_attention
from djinn_checks.checks.agents.sleeper import SleeperRun, answer_ids
from djinn_checks.checks.run import release_memory
from djinn_checks.engine.kv_cache import probe_shape
from djinn_checks.models.open import Model

_GRAM = 4


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the resident model gave."""

    kv_elements_per_token: int
    """Numbers that one token takes in the KV cache, all layers."""
    generated: tuple[int, ...]
    """What transformers' `generate()` says to the sleeper's first prompt."""
    nll_slept: tuple[float, ...]
    """Mean negative log-likelihood of each turn's answer, in nats per token."""
    nll_hot: tuple[float, ...]
    repetition_slept: tuple[float, ...]
    """Share of 4-grams in each turn's answer that occurred before in it."""
    repetition_hot: tuple[float, ...]
    tokens_slept: tuple[int, ...] = ()
    """Of each turn's answer, as the model was asked; those of its text, if the server gave none."""


@torch.no_grad()
def ask_reference(model: Model, device: torch.device, run: SleeperRun, new_tokens: int) -> Reference:
    """Load the model, look at the sleeper's texts and its twin's, and let go of it."""
    module: Any = model.resident(device)
    with reproducible_attention():
        elements = probe_shape(module, device)
        generated = generate(module, device, run.histories[0], new_tokens)
        likelihood = cache(partial(_likelihood, module, device))  # what is said twice is computed once
        slept, hot = (
            [
                likelihood(tuple(history), tuple(answer_ids(model, reply)))
                for history, reply in zip(run.histories, replies, strict=True)
            ]
            for replies in (run.slept, run.hot)
        )
    del module, likelihood
    release_memory(device)
    return Reference(
        kv_elements_per_token=elements.token_bytes // elements.dtype.itemsize,
        generated=generated,
        nll_slept=tuple(slept),
        nll_hot=tuple(hot),
        repetition_slept=tuple(_repetition(answer_ids(model, reply)) for reply in run.slept),
        repetition_hot=tuple(_repetition(answer_ids(model, reply)) for reply in run.hot),
        tokens_slept=tuple(len(answer_ids(model, reply)) for reply in run.slept),
    )


def generate(
    module: Any, device: torch.device, prompt: Sequence[int], count: int, *, streamer: Any = None
) -> tuple[int, ...]:
    """Return the `count` likeliest token ids behind a prompt, by transformers' `generate()`.

    Args:
        streamer: is told of the prompt, then of each token, as transformers documents it.
    """
    ids = torch.tensor([list(prompt)], device=device)
    out = module.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
        streamer=streamer,
    )
    return tuple(out[0, len(prompt) :].tolist())


def _likelihood(module: Any, device: torch.device, history: tuple[int, ...], answer: tuple[int, ...]) -> float:
    ids = torch.tensor([[*history, *answer]], device=device)
    logits = module(input_ids=ids, use_cache=False, logits_to_keep=len(answer) + 1).logits[0, :-1].double()
    logprobs = torch.log_softmax(logits, dim=-1)
    chosen = logprobs.gather(1, torch.tensor(answer, device=device).unsqueeze(1))
    return float(-chosen.mean())


def _repetition(ids: Sequence[int]) -> float:
    grams = [tuple(ids[at : at + _GRAM]) for at in range(len(ids) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
