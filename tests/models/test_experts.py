"""What of a mixture's experts a token does not need."""

from __future__ import annotations

import pytest
from torch import nn
from transformers import LlamaConfig, MixtralConfig, Qwen3MoeConfig

from djinn_checks.models.build import build_module
from djinn_checks.models.experts import unrouted_bytes

SHAPE = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
CONFIGS = {
    "llama": (LlamaConfig(**SHAPE), 0),
    "qwen3-moe": (Qwen3MoeConfig(**SHAPE, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16), 6),
    "mixtral": (MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=4), 0),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_experts_that_a_token_is_not_routed_to_are_counted_and_nothing_else(kind: str) -> None:
    import torch

    config, unrouted = CONFIGS[kind]
    module = build_module(config, torch.float16)
    one = 3 * 32 * 16 * 2  # gate, up and down of 16 rows, in two bytes
    assert unrouted_bytes(module.named_parameters(), config) == 2 * unrouted * one


def test_a_module_without_a_configuration_has_none() -> None:
    assert unrouted_bytes(nn.Linear(2, 2).named_parameters(), None) == 0
