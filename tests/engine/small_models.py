"""Models of a few thousand weights, and caches to run them with."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from djinn_checks.engine.kv_cache import KvBlock, SessionCache
from djinn_checks.engine.kv_shape import KvShape

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 256,
}  # fmt: skip


def make(config: Any, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention).eval()


def new_cache(shape: KvShape, tokens: int, *, compact: bool = False, device: torch.device = CPU) -> SessionCache:
    memory = torch.full((shape.device_bytes(tokens),), 255, dtype=torch.uint8, device=device)  # NaNs, where not written
    return SessionCache(KvBlock(shape, memory), compact=compact)
