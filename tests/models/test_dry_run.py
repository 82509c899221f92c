"""A module that writes its own weights is found before a weight is read, however it writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM, RwkvConfig, XmodConfig

from djinn_checks.checks.logits.check import check_logits
from djinn_checks.checks.pcie.check import check_pcie
from djinn_checks.engine.segments import cut_model
from djinn_checks.errors import ModelUnsupportedError
from djinn_checks.models.build import build_module
from djinn_checks.models.dry_run import marked_versions, refuse_written, run_dry
from djinn_checks.models.open import Model, open_model
from djinn_checks.models.tiny_configs import tiny_config
from djinn_checks.outcome import Status
from djinn_checks.params import LogitsParams, PcieParams
from djinn_checks.systems.ring import RingSystem

CPU = torch.device("cpu")
NORM = "model.layers.0.input_layernorm.weight"


def small(write: Callable[[nn.Module], object]) -> nn.Module:
    """Return a Llama on `meta` whose first norm does something beside its work, in each forward."""
    module = build_module(tiny_config("llama"), torch.float32)
    norm = module.get_submodule("model.layers.0.input_layernorm")

    def before(norm: nn.Module, _: Any) -> None:
        write(norm)

    norm.register_forward_pre_hook(before)
    return module


def visited(family: str, folder: Path) -> Model:
    tiny_config(family).save_pretrained(folder)
    return open_model(f"random:{folder / 'config.json'}", dtype=torch.float32, device=CPU)


def test_what_runs_before_the_blocks_is_streamed_before_them(tmp_path: Path) -> None:
    model = visited("gemma4_text", tmp_path)
    names = [point.name for point in cut_model(model.skeleton(), model.visits).points]
    usual = [point.name for point in cut_model(model.skeleton()).points]
    early, first = "model.per_layer_model_projection", "model.layers.0"
    assert names.index(early) < names.index(first)
    assert usual.index(early) > usual.index(first)
    assert sorted(names) == sorted(usual)
    llama = visited("llama", tmp_path)
    assert cut_model(llama.skeleton(), llama.visits) == cut_model(llama.skeleton())


def test_a_forward_in_another_order_leaves_the_reference_engine_without_a_plan(tmp_path: Path) -> None:
    for family, has_plan in (
        ("llama", True),
        ("bert", True),
        ("gemma4_text", True),
        ("hrm_text", False),
        ("xlm", False),
    ):
        model = visited(family, tmp_path)
        system = RingSystem(model, device=CPU, budget_bytes=int(0.95 * model.weight_bytes))
        assert (system.predicted_bytes_per_pass() is not None) is has_plan


def exchange(norm: Any) -> None:
    norm.weight = nn.Parameter(norm.weight * 2, requires_grad=False)


WRITES: dict[str, Callable[[Any], object]] = {
    "in place": lambda norm: norm.weight.mul_(2),
    "through data": lambda norm: norm.weight.data.div_(2),
    "through a view": lambda norm: norm.weight.detach().view(-1)[:3].zero_(),
    "by index": lambda norm: norm.weight.__setitem__(0, 1.0),
    "as out": lambda norm: torch.add(norm.weight, 1, out=norm.weight),
    "many at once": lambda norm: torch._foreach_mul_([norm.weight], 2),
    "another parameter": exchange,
    "another tensor": lambda norm: setattr(norm.weight, "data", norm.weight.data * 2),
}


@pytest.mark.parametrize("way", WRITES)
def test_a_weight_that_a_forward_writes_is_named(way: str) -> None:
    assert run_dry(small(WRITES[way]), CPU).written == (NORM,)


def needs_values(norm: Any) -> None:
    """Ask for what a tensor without values cannot tell, and fail where it is made up."""
    if norm.weight.sum().item() not in (0.0, 32.0):
        raise ValueError("these are not the weights of a norm")


READS: dict[str, Callable[[Any], object]] = {
    "nothing": lambda norm: None,
    "a copy": lambda norm: norm.weight.clone().mul_(2),
    "activations": lambda norm: torch.ones_like(norm.weight).mul_(norm.weight),
    "values": needs_values,
}


@pytest.mark.parametrize("way", READS)
def test_a_forward_that_only_reads_is_let_be(way: str) -> None:
    dry = run_dry(small(READS[way]), CPU)
    assert (dry.written, dry.failure) == ((), "")


def test_a_dry_run_leaves_the_module_as_it_was() -> None:
    module = small(WRITES["in place"])
    before = marked_versions(module)
    run_dry(module, CPU)
    assert marked_versions(module) == before
    assert len(module.get_submodule("model.layers")) == 4  # type: ignore[arg-type]
    assert all(parameter.is_meta and parameter.dtype == torch.float32 for parameter in module.parameters())


def test_what_only_a_later_block_writes_is_refused_when_the_whole_model_has_run() -> None:
    module = LlamaForCausalLM(tiny_config("llama")).eval().requires_grad_(False)
    before = marked_versions(module)
    ids = torch.ones(1, 3, dtype=torch.int64)
    module(ids)
    refuse_written(before, module)
    norm = module.get_submodule("model.layers.3.input_layernorm")
    norm.register_forward_hook(lambda norm, _, output: (norm.weight.mul_(2), output)[1])
    module(ids)
    with pytest.raises(ModelUnsupportedError, match=r"\(model\.layers\.3\.input_layernorm\.weight is one\)"):
        refuse_written(before, module)


def saved(config: Any, folder: Path) -> list[str]:
    """Return the names under which a configuration can be opened: with random weights, and as a folder."""
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return [f"random:{folder / 'config.json'}", str(folder)]


def test_rwkv_is_refused_in_the_same_sentence_by_every_check(tmp_path: Path) -> None:
    sentences = set()
    for spec in saved(RwkvConfig(vocab_size=96, hidden_size=32, num_hidden_layers=7, context_length=64), tmp_path):
        with pytest.raises(ModelUnsupportedError, match=r"RwkvForCausalLM writes its own weights \(rwkv") as error:
            open_model(spec, dtype=torch.float32, device=CPU)
        shared: dict[str, Any] = {"model": spec, "device": "cpu", "budget_fraction": 0.5}
        for outcome in (check_logits(LogitsParams(**shared)), check_pcie(PcieParams(**shared, dtype="float32"))):
            assert (outcome.status, outcome.failure) == (Status.INCONCLUSIVE, None)
            (row,) = outcome.criteria
            assert (row.name, row.reason) == ("model_supported", str(error.value))
            sentences.add(row.reason.replace(spec, ""))
    assert len(sentences) == 1


def test_a_model_that_wants_more_than_token_ids_is_refused_with_its_own_words(tmp_path: Path) -> None:
    config = XmodConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    for spec in saved(config, tmp_path):
        with pytest.raises(ModelUnsupportedError, match="on token ids alone fails.*Input language unknown"):
            open_model(spec, dtype=torch.float32, device=CPU)


@torch.no_grad()
def test_a_model_that_cannot_decode_one_token_at_a_time_is_refused(tmp_path: Path) -> None:
    tiny_config("cpmant").save_pretrained(tmp_path)
    with pytest.raises(ModelUnsupportedError, match="decoding one token with past_key_values: .*must match"):
        open_model(f"random:{tmp_path / 'config.json'}", dtype=torch.float32, device=CPU)


def test_experts_and_their_values_are_no_reason_to_refuse(tmp_path: Path) -> None:
    for family in ("mixtral", "jetmoe"):
        tiny_config(family).save_pretrained(tmp_path)
        model = open_model(f"random:{tmp_path / 'config.json'}", dtype=torch.float32, device=CPU)
        logits: Tensor = model.resident(CPU)(torch.ones(1, 3, dtype=torch.int64)).logits
        assert logits.isfinite().all()
        assert json.loads((tmp_path / "config.json").read_text())["model_type"] == family


def test_a_table_that_is_read_while_its_module_does_not_run_is_there_for_the_one_that_runs(tmp_path: Path) -> None:
    """ProphetNet reads its positions by a method of the table's own, before which no hook runs."""
    model = visited("prophetnet", tmp_path)
    tables = {f"prophetnet.decoder.{name}_embeddings" for name in ("position", "ngram")}
    assert model.readers == dict.fromkeys(tables, "prophetnet.decoder")
    cut = cut_model(model.skeleton(), model.visits, model.readers)
    needs = {point.name: point.segments for point in cut.points}
    assert set(needs["prophetnet.decoder.position_embeddings"]) <= set(needs["prophetnet.decoder"])
    params = LogitsParams(
        model=model.name, device="cpu", prompts=1, decode_tokens=2, budget_fraction=0.7, max_prompt_tokens=20
    )
    assert check_logits(params).status is Status.PASS
    assert visited("llama", tmp_path).readers == {}
