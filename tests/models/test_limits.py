"""Positions and token ids that a model has no room for are known before anything loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from djinn_checks.checks.logits.check import check_logits
from djinn_checks.checks.pcie.check import check_pcie
from djinn_checks.errors import ModelCorruptError, ModelError, ParamsError
from djinn_checks.models.build import build_module
from djinn_checks.models.limits import count_positions, count_tokens
from djinn_checks.models.open import open_model
from djinn_checks.models.tiny_configs import POSITIONS, tiny_config
from djinn_checks.params import LogitsParams, PcieParams

CPU = torch.device("cpu")
ENDING = {"gpt2": POSITIONS, "opt": POSITIONS, "roberta": POSITIONS - 1, "bart": POSITIONS, "gptj": POSITIONS}


@pytest.mark.parametrize("family", ENDING)
@torch.no_grad()
def test_so_many_positions_run_and_one_more_does_not(family: str) -> None:
    module: Any = AutoModelForCausalLM.from_config(tiny_config(family)).eval()
    count = count_positions(module)
    assert count == ENDING[family]
    assert module(torch.full((1, count), 5)).logits.shape[1] == count
    with pytest.raises((IndexError, RuntimeError)):
        module(torch.full((1, count + 1), 5))


@pytest.mark.parametrize("family", ["llama", "bloom", "mamba", "gemma3", "deepseek_v4"])
@torch.no_grad()
def test_positions_that_are_computed_have_no_end(family: str) -> None:
    module: Any = AutoModelForCausalLM.from_config(tiny_config(family)).eval()
    assert count_positions(module) is None
    assert module(torch.full((1, POSITIONS + 3), 5)).logits.isfinite().all()


def random_spec(family: str, folder: Path) -> str:
    tiny_config(family).save_pretrained(folder)
    return f"random:{folder / 'config.json'}"


def test_a_prompt_longer_than_the_positions_is_refused_before_anything_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("djinn_checks.models.open.Model.resident", lambda *_: pytest.fail("weights were loaded"))
    shared: dict[str, Any] = {"model": random_spec("gpt2", tmp_path), "device": "cpu", "budget_fraction": 0.6}
    with pytest.raises(
        ParamsError, match="343 tokens: .* has 96 positions; give max_prompt_tokens: 88 or fewer decode"
    ):
        check_logits(LogitsParams(**shared, prompts=1, max_prompt_tokens=512))
    with pytest.raises(ParamsError, match="128 tokens: .* has 96 positions; give context_tokens: 96 or less"):
        check_pcie(PcieParams(**shared, dtype="float32"))


def test_a_budget_too_small_for_a_tiny_model_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("djinn_checks.models.open.Model.resident", lambda *_: pytest.fail("weights were loaded"))
    for check, params in ((check_logits, LogitsParams), (check_pcie, PcieParams)):
        with pytest.raises(ParamsError, match="budget_fraction: 0.25 of random:tiny .* too little for system"):
            check(params(model="random:tiny", device="cpu", budget_fraction=0.25))  # type: ignore[operator]


def test_a_token_that_the_weights_have_no_row_for_is_named(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(tiny_config("llama")).save_pretrained(tmp_path)
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "ring": 5, "buffer": 300}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(tmp_path)
    model = open_model(str(tmp_path), dtype=torch.float32, device=CPU)
    assert model.encode("ring ring", 8) == [5, 5]
    with pytest.raises(ModelCorruptError, match=r"its tokenizer makes token 300 of 'ring buffer', .*tokens 0 to 127"):
        model.encode("ring buffer", 8)
    assert model.encode("ring buffer", 1) == [5]


@pytest.mark.parametrize("family", ["gemma3", "llama4", "aria_text"])
def test_a_model_made_of_parts_has_random_prompts_within_its_table(family: str, tmp_path: Path) -> None:
    model = open_model(random_spec(family, tmp_path), dtype=torch.float32, device=CPU)
    ids = model.encode("The harbour was quiet at that hour.", 16)
    assert len(ids) == 16
    assert model.vocabulary == count_tokens(model.skeleton())
    assert max(ids) < model.vocabulary


def test_a_table_with_more_rows_than_answers_is_counted_by_its_answers() -> None:
    module = build_module(tiny_config("mllama"), torch.float32)
    assert module.get_input_embeddings().num_embeddings == 136  # type: ignore[operator]
    assert count_tokens(module) == 128


def test_a_budget_that_holds_all_that_text_uses_is_refused(tmp_path: Path) -> None:
    spec = random_spec("phi4_multimodal", tmp_path)
    model = open_model(spec, dtype=torch.float32, device=CPU)
    assert model.used_bytes < 0.5 * model.weight_bytes
    with pytest.raises(ParamsError, match="hold all that token ids use of .* so nothing has to be streamed"):
        check_logits(LogitsParams(model=spec, device="cpu", budget_fraction=0.5))
    whole = open_model(random_spec("mixtral", tmp_path), dtype=torch.float32, device=CPU)
    assert whole.used_bytes == whole.weight_bytes


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_attention_heads": 0}, "can be built from its configuration|cannot be read"),
        ({"hidden_act": "no-such-function"}, "can be built from its configuration|cannot be read"),
        ({"hidden_size": -32}, "can be built from its configuration|cannot be read"),
        ({"vocab_size": "many"}, "can be built from its configuration|cannot be read"),
        ({"rope_parameters": {"rope_type": "no-such-type"}}, "can be built from its configuration|cannot be read"),
        ({"num_key_value_heads": 3}, "fails, whatever its weights|can be built from its configuration|cannot be read"),
    ],
    ids=str,
)
def test_impossible_values_of_a_configuration_are_refused_in_a_sentence(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    values = tiny_config("llama").to_dict() | changed
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=message) as error:
        open_model(f"random:{tmp_path / 'config.json'}", dtype=torch.float32, device=CPU)
    assert "\n" not in str(error.value)
