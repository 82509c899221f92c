"""Whether a prefill rounds otherwise than a decode on this processor, in the model that faulty servers serve.

Found without a server: the same tokens in a cache that was kept, and in one that is computed anew.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from djinn_checks.attention import reproducible_attention
from djinn_checks.checks.agents.scripts import write_script
from djinn_checks.faults.agents.runs import _profile
from djinn_checks.models.open import open_model

CPU = torch.device("cpu")


@cache
def rounding_tells_a_kept_cache() -> bool:
    """Return whether log-probabilities of a kept cache differ from those of a recomputed one, as servers are asked."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as the servers have
    try:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad(), reproducible_attention():
            return _differs(_profile(Path(folder), CPU, False))
    finally:
        torch.set_num_threads(threads)


def _differs(profile: dict[str, Any]) -> bool:
    model = open_model(profile["model"], dtype=torch.float32, device=CPU, seed=0)
    module: Any = model.resident(CPU)
    script = write_script(model, number=0, tokens=profile["prompt_tokens"], turns=2, seed=0)
    kept, new_tokens = DynamicCache(), profile["new_tokens"]
    answer = _answer(module, kept, list(script.prompt), new_tokens)[0]
    history = [*script.prompt, *answer, *script.follow_ups[0]]
    hot = _answer(module, kept, history[len(script.prompt) + new_tokens - 1 :], new_tokens)[1]
    cold = _answer(module, DynamicCache(), history, new_tokens)[1]
    return not torch.equal(hot, cold)


def _answer(module: Any, cache: DynamicCache, fed: list[int], count: int) -> tuple[list[int], Tensor]:
    """Feed tokens behind a cache and return the likeliest ones that follow, with their log-probabilities."""
    ids: list[int] = []
    best: list[Tensor] = []
    for _ in range(count):
        given = torch.tensor([fed])
        logits = module(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
        logprobs = torch.log_softmax(logits.double(), dim=-1)
        fed = [int(logprobs.argmax())]
        ids += fed
        best.append(logprobs.topk(2).values)
    return ids, torch.cat(best)
