"""Whatever `from_pretrained` does beyond copying parameters is done here too, or refused by name."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    Ernie4_5_MoeConfig,
    Gemma4TextConfig,
    Glm4MoeConfig,
    GptOssConfig,
    LlamaConfig,
    NemotronHConfig,
    PretrainedConfig,
)

from djinn_checks.errors import ModelError
from djinn_checks.models.open import Model, open_model

CPU = torch.device("cpu")
_SMALL = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_routed_experts": 4}
_GROUPS = {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
_LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16}

TRAINED_BUFFERS: dict[str, PretrainedConfig] = {
    "deepseek_v3": DeepseekV3Config(**_SMALL | {"num_key_value_heads": 4}, **_EXPERTS, **_GROUPS, **_LATENT),
    "glm4_moe": Glm4MoeConfig(**_SMALL, **_EXPERTS, **_GROUPS, head_dim=16),
    "gemma4": Gemma4TextConfig(
        **_SMALL, head_dim=16, global_head_dim=16, vocab_size_per_layer_input=300, hidden_size_per_layer_input=16,
        num_kv_shared_layers=0, layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    ),
    "nemotron_h": NemotronHConfig(
        **_SMALL, **_EXPERTS, n_group=2, topk_group=1, head_dim=16, mamba_num_heads=4, mamba_head_dim=32, n_groups=2,
        ssm_state_size=8,
    ),
}  # fmt: skip
KEPT_WIDE: dict[str, PretrainedConfig] = {
    "ernie4_5_moe": Ernie4_5_MoeConfig(**_SMALL, moe_num_experts=4, moe_k=2, moe_intermediate_size=32),
    "gpt_oss": GptOssConfig(**_SMALL, head_dim=16, num_local_experts=4, num_experts_per_tok=2),
}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def save_trained(config: PretrainedConfig, folder: Path) -> None:
    """Save a model in which no stored value is what its class starts with."""
    torch.manual_seed(3)
    module: Any = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    stored = module.state_dict(keep_vars=True)
    with torch.no_grad():
        for value in {id(value): value for value in stored.values()}.values():
            if value.is_floating_point():
                value.add_(0.05 * torch.rand(value.shape).to(value.dtype))  # small: float16 ends at 65,504
    module.save_pretrained(folder)


def opened(folder: Path, dtype: torch.dtype = torch.float32) -> Model:
    return open_model(str(folder), dtype=dtype, device=CPU)


@torch.no_grad()
def logits(module: Any) -> torch.Tensor:
    result: torch.Tensor = module(torch.arange(3, 33)[None]).logits
    return result


def theirs(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", [*TRAINED_BUFFERS, *KEPT_WIDE])
def test_a_trained_folder_has_every_tensor_and_the_logits_of_from_pretrained(
    name: str, dtype: str, tmp_path: Path
) -> None:
    save_trained((TRAINED_BUFFERS | KEPT_WIDE)[name], tmp_path)
    expected, model = theirs(tmp_path, TYPES[dtype]), opened(tmp_path, TYPES[dtype])
    module = model.resident(CPU)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for tensor_name, tensor in [*expected.named_parameters(), *expected.named_buffers()]:
        assert tensors[tensor_name].dtype == tensor.dtype, tensor_name
        assert torch.equal(tensors[tensor_name], tensor), tensor_name
    assert logits(expected).isfinite().all()
    assert torch.equal(logits(module), logits(expected))
    assert model.weight_bytes == sum(parameter.nbytes for parameter in expected.parameters())


@pytest.mark.parametrize("name", TRAINED_BUFFERS)
def test_buffers_that_a_checkpoint_stores_are_not_what_the_class_starts_with(name: str, tmp_path: Path) -> None:
    save_trained(TRAINED_BUFFERS[name], tmp_path)
    model = opened(tmp_path)
    fresh = AutoModelForCausalLM.from_config(copy.deepcopy(TRAINED_BUFFERS[name]))
    assert model.buffers
    for buffer_name, value in model.buffers.items():
        assert not torch.equal(value, fresh.get_buffer(buffer_name))


@pytest.mark.parametrize("name", KEPT_WIDE)
def test_random_weights_are_as_wide_as_the_class_keeps_them(name: str, tmp_path: Path) -> None:
    KEPT_WIDE[name].save_pretrained(tmp_path)
    model = open_model(f"random:{tmp_path / 'config.json'}", dtype=torch.float16, device=CPU)
    skeleton = dict(model.skeleton().named_parameters())
    wide = {parameter_name for parameter_name, value in skeleton.items() if value.dtype == torch.float32}
    assert wide
    assert wide < skeleton.keys()
    assert {
        parameter_name for parameter_name in skeleton if model.weights[parameter_name].dtype != torch.float16
    } == wide


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickled"])
@pytest.mark.parametrize("same", [False, True], ids=["two tables", "one table stored twice"])
def test_tables_are_tied_only_where_the_file_stores_the_same_values(same: bool, pickled: bool, tmp_path: Path) -> None:
    save_trained(LlamaConfig(**_SMALL, tie_word_embeddings=True), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    table = stored["model.embed_tokens.weight"]
    stored["lm_head.weight"] = table.clone() if same else table.flip(0).contiguous()
    if pickled:
        (tmp_path / "model.safetensors").unlink()
        torch.save(stored, tmp_path / "pytorch_model.bin")
    else:
        save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = opened(tmp_path)
    assert torch.equal(logits(model.resident(CPU)), logits(theirs(tmp_path)))
    assert model.untied == (frozenset() if same else {"lm_head.weight"})
    assert ("lm_head.weight" in model.weights) is not same


def test_stored_tensors_that_nothing_uses_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_trained(LlamaConfig(**_SMALL), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    stored["model.layers.0.self_attn.q_norm.weight"] = torch.ones(16)
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING):
        opened(tmp_path)
    assert "1 stored tensors are used by nothing in LlamaForCausalLM, the first is model.layers.0.self_attn.q_norm" in (
        caplog.text
    )


def test_quantized_tensors_are_called_that_and_not_damaged(tmp_path: Path) -> None:
    save_trained(LlamaConfig(**_SMALL), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    del stored[f"{name}.weight"]
    stored |= {f"{name}.qweight": torch.zeros(8, 96, dtype=torch.int32), f"{name}.scales": torch.ones(1, 96)}
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"up_proj.qweight.*quantized checkpoints are not supported"):
        opened(tmp_path)
