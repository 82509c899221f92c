"""One step of a turn: a forward at batch 1 over the session's own cache, and the choice of the next token.

Sessions are never computed together, so a session's arithmetic does not depend on its neighbours: with the
same tokens and the same cache it gives the same bits whoever else is being served.

Log-probabilities are float64. A prefill and a decode may round by less than a float32 near -6 resolves (4.8e-7), and
whether it shows would be luck; a kept KV cache is told from a recomputed one by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from djinn_checks.engine.decode_graphs import DecodeGraphs
from djinn_checks.engine.kv_cache import SessionCache
from djinn_checks.engine.turn import Token, TurnRequest


@torch.no_grad()
def next_logits(
    module: Any, ids: Sequence[int], cache: SessionCache, device: torch.device, graphs: DecodeGraphs | None = None
) -> Tensor:
    """Feed token ids behind what the cache holds and return the logits of the next token, 1-d in the model's dtype.

    Args:
        graphs: of the module's decode; a single token goes through them, and its logits last until the next one's.
    """
    if graphs is not None and len(ids) == 1:
        return graphs.step(ids[0], cache)
    fed = torch.tensor([list(ids)], dtype=torch.int64).to(device, non_blocking=True)
    logits: Tensor = module(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    return logits[0, -1]


def choose(logits: Tensor, request: TurnRequest, random: torch.Generator) -> Token:
    """Choose the next token; `random` is a CPU generator, so that a seed means the same on every device."""
    if request.logprobs is None and request.temperature == 0:
        return Token(id=int(logits.argmax()))
    logprobs = torch.log_softmax(logits.double(), dim=-1)
    chosen = _sample(logprobs.cpu(), request, random) if request.temperature > 0 else logprobs.argmax()
    count = 0 if request.logprobs is None else min(request.logprobs, len(logprobs))
    values, ids = logprobs.topk(count)
    # One transfer for all: a float64 holds token ids exactly.
    place = chosen.to(logprobs.device).reshape(1)
    fetched = torch.cat([place.double(), logprobs[place], ids.double(), values]).tolist()
    top = tuple(zip(map(int, fetched[2 : 2 + count]), fetched[2 + count :], strict=True))
    return Token(id=int(fetched[0]), logprob=None if request.logprobs is None else fetched[1], top=top)


def _sample(logprobs: Tensor, request: TurnRequest, random: torch.Generator) -> Tensor:
    below_best = logprobs - logprobs.max()  # first, or the smallest temperatures make all -inf
    probabilities = torch.softmax(below_best / request.temperature, dim=-1)
    if request.top_p < 1:
        ordered, ids = probabilities.sort(descending=True, stable=True)
        beyond = ordered.cumsum(0) - ordered >= request.top_p
        probabilities = probabilities.index_fill(0, ids[beyond], 0.0)
    return torch.multinomial(probabilities, 1, generator=random)
