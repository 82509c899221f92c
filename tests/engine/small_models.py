"""Models of a few thousand weights, and caches to run them with."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen3MoeConfig,
)

from djinn_checks.engine.kv_cache import KvBlock, SessionCache
from djinn_checks.engine.kv_shape import KvShape

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 256,
}  # fmt: skip

VOCABULARY = 300
_SMALL = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}
_GQA = {**_SMALL, "intermediate_size": 128, "num_key_value_heads": 2}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_GQA),
    "llama-tied": LlamaConfig(**_GQA, tie_word_embeddings=True),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=6, n_head=4, n_positions=128),
    "qwen3-moe": Qwen3MoeConfig(**_GQA, moe_intermediate_size=64, num_experts=4, num_experts_per_tok=2),
    "opt": OPTConfig(**_SMALL, ffn_dim=128, max_position_embeddings=128, word_embed_proj_dim=32),
    "gemma": GemmaConfig(**_GQA, head_dim=16),
    "mistral": MistralConfig(**_GQA),
}


def make(config: Any, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention).eval()


def new_cache(shape: KvShape, tokens: int, *, compact: bool = False, device: torch.device = CPU) -> SessionCache:
    memory = torch.full((shape.device_bytes(tokens),), 255, dtype=torch.uint8, device=device)  # NaNs, where not written
    return SessionCache(KvBlock(shape, memory), compact=compact)
