"""Models come from a name; weights one at a time, buffers as transformers computes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from djinn_checks.errors import ModelCorruptError, ModelError, ModelNotFoundError
from djinn_checks.models import random_weights
from djinn_checks.models.random_weights import random_tensor
from tests.models.folders import ALL_CONFIGS, CPU, opened, save_folder


@torch.no_grad()
def logits(module: Any) -> torch.Tensor:
    result: torch.Tensor = module(torch.arange(30)[None]).logits
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("name", ALL_CONFIGS)
def test_a_skeleton_has_its_parameters_on_meta_and_the_buffers_of_a_normal_model(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    save_folder(name, tmp_path)
    normal = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    skeleton = opened(str(tmp_path), dtype).skeleton()
    assert all(parameter.is_meta and parameter.dtype == dtype for parameter in skeleton.parameters())
    assert not skeleton.training
    buffers = dict(skeleton.named_buffers())
    assert buffers.keys() == dict(normal.named_buffers()).keys()
    for buffer_name, expected in normal.named_buffers():
        assert buffers[buffer_name].dtype == expected.dtype
        assert torch.equal(buffers[buffer_name], expected), buffer_name
    assert ties(skeleton) == ties(normal)


def ties(module: nn.Module) -> set[tuple[str, ...]]:
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {tuple(group) for group in names.values()}


@pytest.mark.parametrize("shards", ["5GB", "100KB"], ids=["one file", "many shards"])
@pytest.mark.parametrize("name", ALL_CONFIGS)
def test_a_local_folder_gives_the_logits_of_from_pretrained(name: str, shards: str, tmp_path: Path) -> None:
    save_folder(name, tmp_path, max_shard_size=shards)
    expected = logits(AutoModelForCausalLM.from_pretrained(tmp_path).eval())
    model = opened(str(tmp_path))
    assert torch.equal(logits(model.resident(CPU)), expected)
    assert set(model.weights) == {name for name, _ in model.skeleton().named_parameters()}
    assert model.weight_bytes == sum(value.numel() * 4 for value in model.weights.values())


def test_unknown_names_say_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFoundError, match=r"random:llama-3: no such shape; known: llama-2-7b"):
        opened("random:llama-3")
    with pytest.raises(ModelNotFoundError, match="no such folder.*known without a network: smollm2"):
        opened("./does-not-exist")


def test_code_from_a_repository_is_never_run(tmp_path: Path) -> None:
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    for spec in (str(tmp_path), f"random:{tmp_path / 'config.json'}"):
        with pytest.raises(ModelError, match="needs code from its own repository, which is never run"):
            opened(spec)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", ModelCorruptError, "configuration cannot be read"),
        ('{"model_type": "no-such-type"}', ModelCorruptError, "configuration cannot be read"),
        ('{"model_type": "t5"}', ModelError, "'t5'.* expected a causal language model"),
    ],
    ids=["no JSON", "an unknown type", "an encoder-decoder"],
)
def test_a_configuration_of_no_use_is_refused_with_the_reason(
    text: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(error, match=message):
        opened(f"random:{tmp_path / 'config.json'}")


def test_a_tokenizer_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    save_folder("llama", tmp_path)
    assert opened(str(tmp_path)).tokenizer is None
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "NoSuchTokenizer"}')
    with pytest.raises(ModelCorruptError, match="tokenizer cannot be read"):
        opened(str(tmp_path))


def test_an_access_makes_one_random_tensor_and_opening_makes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def counted(name: str, *args: Any, **kwargs: Any) -> torch.Tensor:
        made.append(name)
        return random_tensor(name, *args, **kwargs)

    monkeypatch.setattr(random_weights, "random_tensor", counted)
    model = opened("random:tiny")
    assert model.weight_bytes == sum(parameter.nbytes for parameter in model.skeleton().parameters())
    assert made == []
    name = "model.layers.0.mlp.up_proj.weight"
    alone = model.weights[name]
    assert made == [name]
    assert torch.equal(alone, model.resident(CPU).get_parameter(name))
    assert sorted(made[1:]) == sorted(model.weights)


def test_a_skeleton_shares_no_configuration_with_the_next() -> None:
    model = opened("random:tiny")
    first: Any = model.skeleton()
    first.config.use_cache = not first.config.use_cache
    second: Any = model.skeleton()
    assert second.config.use_cache != first.config.use_cache


def test_the_shapes_have_the_parameters_of_llama_2() -> None:
    parameters = {"llama-2-7b": 6_738_415_616, "llama-2-13b": 13_015_864_320, "llama-2-70b": 68_976_648_192}
    for shape, count in parameters.items():
        assert opened(f"random:{shape}", torch.float16).weight_bytes == 2 * count


def test_a_shape_can_be_a_config_file(tmp_path: Path) -> None:
    ALL_CONFIGS["gpt2"].save_pretrained(tmp_path)
    model = opened(f"random:{tmp_path / 'config.json'}", seed=5)
    assert logits(model.resident(CPU)).isfinite().all()
    assert model.tokenizer is None
    assert model.encode("hello", 3) == model.encode("hello there", 3)
    assert all(0 <= token < 300 for token in model.encode("any text ßÄ", 99))


def test_a_model_that_is_lent_has_a_configuration_of_its_own(tmp_path: Path) -> None:
    save_folder("llama", tmp_path)
    model = opened(str(tmp_path))
    layers = model.config.num_hidden_layers
    model.lent().config.num_hidden_layers = 1
    assert model.config.num_hidden_layers == layers
