"""A checkpoint is read one tensor at a time, and what it does not hold is refused, never made up."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from djinn_checks.errors import ModelCorruptError, ModelError, ModelNotFoundError
from djinn_checks.models import checkpoint
from tests.models.folders import CPU, opened, save_folder

UP_PROJ = "model.layers.0.mlp.up_proj.weight"


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file({name: value.clone() for name, value in change(load_file(path)).items()}, path, {"format": "pt"})


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda stored: {key: value for key, value in stored.items() if key != name}


def test_opening_reads_no_weights(tmp_path: Path) -> None:
    save_folder("llama", tmp_path, max_shard_size="100KB")
    model = opened(str(tmp_path))
    for shard in tmp_path.glob("*.safetensors"):
        shard.write_bytes(b"")
    with pytest.raises(Exception, match=r"(?i)header|safetensors"):
        model.weights[UP_PROJ]


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_what_a_caller_writes_into_a_weight_stays_with_the_caller(name: str, tmp_path: Path) -> None:
    save_folder(name, tmp_path)
    model = opened(str(tmp_path))
    for weight_name, value in model.weights.items():
        assert value.is_contiguous()
        before = value.clone()
        value.zero_()
        assert torch.equal(model.weights[weight_name], before), weight_name


def test_other_safetensors_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    module = save_folder("llama", tmp_path)
    zeros = {name: torch.zeros_like(value) for name, value in load_file(tmp_path / "model.safetensors").items()}
    save_file(zeros, tmp_path / "other.safetensors")
    assert torch.equal(opened(str(tmp_path)).weights[UP_PROJ], module.get_parameter(UP_PROJ))


def test_a_checkpoint_of_the_base_model_is_read_without_its_prefix(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = save_folder("gpt2", tmp_path)
    rewrite(tmp_path, lambda stored: {name.removeprefix("transformer."): value for name, value in stored.items()})
    with caplog.at_level(logging.INFO, logger=checkpoint.__name__):
        model = opened(str(tmp_path))
    assert "are read one by one" in caplog.text
    name = "transformer.h.0.attn.c_attn.weight"
    assert torch.equal(model.weights[name], module.get_parameter(name))


def test_pickled_weights_are_loaded_by_transformers_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = save_folder("llama-tied", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    with caplog.at_level(logging.INFO, logger=checkpoint.__name__):
        model = opened(str(tmp_path), torch.bfloat16)
    assert "transformers loads the whole checkpoint" in caplog.text
    assert torch.equal(model.weights[UP_PROJ], module.get_parameter(UP_PROJ).bfloat16())


def test_weights_of_another_shape_and_a_damaged_file_are_named(tmp_path: Path) -> None:
    save_folder("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    with pytest.raises(ModelCorruptError, match=r"mlp.* expected shape \(96, 64\).* got \(128, 64\)"):
        opened(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ModelCorruptError, match="is no whole safetensors file"):
        opened(str(tmp_path))


def test_weights_of_another_shape_are_refused_when_transformers_loads_them(tmp_path: Path) -> None:
    save_folder("mixtral", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 4}))
    with pytest.raises(ModelCorruptError, match="k_proj.* another shape"):
        opened(str(tmp_path)).resident(CPU)


def test_a_missing_weight_is_named_and_never_made_up(tmp_path: Path) -> None:
    save_folder("llama", tmp_path)
    rewrite(tmp_path, without(UP_PROJ))
    with pytest.raises(ModelCorruptError, match=rf"{UP_PROJ}.*missing"):
        opened(str(tmp_path))
    # Beside a tensor that nobody knows, it could be there under another name: transformers is asked.
    rewrite(tmp_path, lambda stored: stored | {"surplus": torch.zeros(1)})
    with pytest.raises(ModelCorruptError, match=rf"{UP_PROJ}.*missing"):
        opened(str(tmp_path)).resident(CPU)


def test_a_missing_expert_is_refused(tmp_path: Path) -> None:
    save_folder("qwen3-moe", tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    rewrite(tmp_path, without(next(name for name in stored if "layers.1.mlp.experts" in name)))
    with pytest.raises(ModelCorruptError, match="experts"):
        opened(str(tmp_path)).resident(CPU)


def test_a_missing_shard_and_a_folder_without_weights_are_refused_at_once(tmp_path: Path) -> None:
    save_folder("llama", tmp_path, max_shard_size="100KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    shards[1].unlink()
    with pytest.raises(ModelCorruptError, match=f"{shards[1].name} is not there"):
        opened(str(tmp_path))
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelCorruptError, match="is no index of weights"):
        opened(str(tmp_path))
    for path in (*shards[:1], *shards[2:], tmp_path / "model.safetensors.index.json"):
        path.unlink()
    with pytest.raises(ModelNotFoundError, match="a configuration and no weights"):
        opened(str(tmp_path))


def test_quantized_weights_are_refused_and_never_read_as_plain_ones(tmp_path: Path) -> None:
    save_folder("llama", tmp_path)
    rewrite(tmp_path, lambda stored: stored | {UP_PROJ: stored[UP_PROJ].to(torch.int8)})
    with pytest.raises(ModelError, match=rf"{UP_PROJ}.*got I8.*quantized"):
        opened(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(ModelError, match="quantized checkpoints are not supported"):
        opened(str(tmp_path))
