"""One small configuration of each architecture that models are built from in tests."""

from __future__ import annotations

from transformers import (
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen3MoeConfig,
)

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
