"""The smallest sensible configuration of any family that transformers implements: thousands of weights, not billions.

Four layers, since a hybrid model has one layer of attention in so many; widths that let heads, groups and experts
divide. Where a class wants something else of its own, it stands in `_OWN`.
"""

from __future__ import annotations

from typing import Any

from djinn_checks.errors import ModelNotFoundError

POSITIONS = 96
_WIDTH, _LAYERS, _HEADS, _HEAD = 32, 4, 4, 8

_SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 128),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), POSITIONS),
    **dict.fromkeys(
        ("hidden_size", "n_embd", "d_model", "emb_dim", "word_embed_proj_dim", "embedding_size",
         "attention_hidden_size", "lru_width", "input_embedding_size", "output_embedding_size", "index_head_dim",
         "cross_attention_hidden_size"),
        _WIDTH,
    ),
    **dict.fromkeys(
        ("intermediate_size", "d_ff", "n_inner", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size",
         "intermediate_size_mlp", "dense_intermediate_size", "expert_ffn_hidden_size"),
        48,
    ),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers",
         "num_encoder_layers", "num_decoder_layers"),
        _LAYERS,
    ),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
         "decoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"),
        _HEADS,
    ),
    **dict.fromkeys(("num_key_value_heads", "n_group", "mamba_n_groups", "n_groups", "linear_num_key_heads"), 2),
    **dict.fromkeys(("head_dim", "global_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), _HEAD),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "hidden_size_per_layer_input"), _HEAD),
    **dict.fromkeys(("ssm_state_size", "state_size", "mamba_d_state", "patch_size"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_head_dim", "mamba_head_dim", "mamba_d_head", "image_size", "sliding_window"), 16),
    **dict.fromkeys(("mamba_num_heads", "mamba_n_heads", "linear_num_value_heads", "rotary_dim"), 4),
    **dict.fromkeys(("topk_group", "first_k_dense_replace", "bos_token_id"), 1),
    **dict.fromkeys(("expand", "mamba_expand", "eos_token_id"), 2),
    "mamba_d_ssm": 64,
    "pad_token_id": 0,
}  # fmt: skip
"""Names that configurations give to their sizes, and what they get."""

_DERIVED = ("head_dim", "num_key_value_heads")
"""Sizes that a class computes from others where they are empty, and some classes only from their own defaults."""

_LATENT = {"num_key_value_heads": _HEADS}
"""Attention with latent keys and values has as many of them as queries."""

_OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "kimi_linear",
         "longcat_flash", "minicpm3", "youtu"),
        _LATENT,
    ),
    "bailing_hybrid": _LATENT | {"layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1]},
    "deepseek_v2": _LATENT | {"topk_method": "greedy", "num_experts_per_tok": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": _LATENT | {"layer_types": ["linear_attention", "full_attention"] * 2},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 2},
    "reformer": {"is_decoder": True},
    "xlstm": {"num_heads": 4},
    "zamba2": {"layer_types": ["mamba", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip


_OWN_PARTS: dict[str, dict[str, Any]] = {
    "got_ocr2_vision": {"mlp_dim": 48, "output_channels": 16, "num_hidden_layers": 1, "global_attn_indexes": [0]},
}
"""Parts of models that have several, by their own type: the one that computes on tokens has to be the largest."""


def families() -> list[str]:
    """Return the model types that transformers has a causal language model for."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(family: str) -> Any:
    """Return a small configuration of a family.

    Raises:
        ModelNotFoundError: transformers has no such family.
        Exception: its class wants values that are not known here.
    """
    from transformers import CONFIG_MAPPING

    if family not in families():
        raise ModelNotFoundError(f"family {family!r}: transformers has no causal language model of that type")
    return _shrink(CONFIG_MAPPING[family], _OWN.get(family, {}))


def _shrink(kind: type[Any], own: dict[str, Any]) -> Any:
    """Make a configuration of a class with small sizes, and of the parts that it is made of."""
    from transformers import PretrainedConfig

    usual = kind()
    plain = {name: value for name, value in vars(usual).items() if not name.startswith("_")}
    changed = {}
    for name, size in _SIZES.items():
        value = plain.get(usual.attribute_map.get(name, name), "absent")
        if isinstance(value, int) or (value is None and name in _DERIVED):
            changed[name] = size
    parts = {
        name: _shrink(type(part), _OWN_PARTS.get(part.model_type, {})).to_dict()
        for name, part in plain.items()
        if isinstance(part, PretrainedConfig)
    }
    return kind(**changed | parts | own)
