"""Small models of many architectures, saved in folders as transformers saves them, and opened."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma3TextConfig,
    MixtralConfig,
    PretrainedConfig,
)

from djinn_checks.models.open import Model, open_model
from tests.architectures import CONFIGS

CPU = torch.device("cpu")
ALL_CONFIGS: dict[str, PretrainedConfig] = {
    **CONFIGS,
    "bloom": BloomConfig(vocab_size=300, hidden_size=64, n_layer=3, n_head=4),
    "gemma3": Gemma3TextConfig(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16,
    ),
    "falcon": FalconConfig(vocab_size=300, hidden_size=64, num_hidden_layers=3, num_attention_heads=4),
    "mixtral": MixtralConfig(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4,
    ),
}  # fmt: skip


def opened(spec: str, dtype: torch.dtype = torch.float32, **kwargs: Any) -> Model:
    return open_model(spec, dtype=dtype, device=CPU, **kwargs)


def save_folder(name: str, folder: Path, **kwargs: Any) -> Any:
    torch.manual_seed(3)
    module = AutoModelForCausalLM.from_config(copy.deepcopy(ALL_CONFIGS[name])).eval()
    module.save_pretrained(folder, **kwargs)
    return module
