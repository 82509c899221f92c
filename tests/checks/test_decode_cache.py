"""Decoding carries on what a model keeps, whatever its class calls it, and proves nothing where it keeps nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from djinn_checks.checks.logits.check import check_logits
from djinn_checks.checks.logits.prompt_run import run_prompt
from djinn_checks.checks.pcie.check import check_pcie
from djinn_checks.decode_cache import CACHE_NAMES, carried_over
from djinn_checks.models.tiny_configs import tiny_config
from djinn_checks.outcome import Outcome, Status
from djinn_checks.params import LogitsParams, PcieParams
from djinn_checks.systems.ring import RingSystem


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_what_comes_out_under_a_name_goes_in_under_it(name: str) -> None:
    kept = object()
    output = SimpleNamespace(logits=None, **dict.fromkeys(CACHE_NAMES) | {name: kept})
    assert carried_over(output) == {name: kept}
    assert carried_over(SimpleNamespace(logits=None)) == {}


@pytest.mark.parametrize("family", ["llama", "mamba", "mamba2", "falcon_mamba", "qwen3_next"])
def test_decoding_says_what_the_whole_sequence_says(family: str) -> None:
    torch.manual_seed(1)
    module: Any = AutoModelForCausalLM.from_config(tiny_config(family)).eval()
    ids = torch.arange(3, 15)[None]
    decoded = run_prompt(module, ids[:, :8], 4, forced=ids[0, 8:].repeat(2))
    with torch.no_grad():
        whole = module(ids).logits[0, 8:]
    torch.testing.assert_close(decoded.decode, whole, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(decoded.decode[:1], run_prompt(module, ids[:, 8:9], 1).prefill, rtol=1e-3, atol=1e-4)


def spec(family: str, folder: Path) -> dict[str, Any]:
    tiny_config(family).save_pretrained(folder)
    return {"model": f"random:{folder / 'config.json'}", "device": "cpu", "budget_fraction": 0.75}


def logits(shared: dict[str, Any], **options: Any) -> Outcome:
    params = LogitsParams(**shared, prompts=["Hello, ring buffer."], max_prompt_tokens=12, decode_tokens=2)
    return check_logits(params, **options)


def test_a_model_without_a_cache_is_right_in_prefill_and_proves_nothing_by_decoding(tmp_path: Path) -> None:
    outcome = logits(spec("bert", tmp_path))
    assert outcome.status is Status.INCONCLUSIVE
    assert outcome.criterion("prefill_bit_equal").status is Status.PASS
    for name in ("decode_bit_equal", "decode_l2_or_top_k"):
        row = outcome.criterion(name)
        assert row.status is Status.INCONCLUSIVE
        assert "it has no cache" in row.reason


def test_a_wrong_answer_without_a_cache_is_still_wrong(tmp_path: Path) -> None:
    class OffWhenDecoding(RingSystem):
        def open(self) -> Any:
            module = super().open()
            module.register_forward_hook(self.spoil)
            return module

        def spoil(self, _: Any, args: Any, output: Any) -> Any:
            if args[0].shape[1] == 1:
                output.logits = output.logits + 1
            return output

    outcome = logits(spec("bert", tmp_path), system_factory=OffWhenDecoding)
    assert outcome.status is Status.FAIL
    assert outcome.criterion("prefill_bit_equal").status is Status.PASS
    assert outcome.criterion("decode_bit_equal").status is Status.FAIL


def test_without_a_cache_there_is_no_decode_loop_and_with_another_there_is_one(tmp_path: Path) -> None:
    for family in ("electra", "mamba"):
        (tmp_path / family).mkdir()
        outcome = check_pcie(
            PcieParams(
                **spec(family, tmp_path / family), dtype="float32", duration_s=1.0, context_tokens=64, sweep=False
            )
        )
        assert outcome.status is Status.INCONCLUSIVE
        names = [row.name for row in outcome.criteria]
        if family == "electra":
            assert names == ["model_supported"]
            assert "the model keeps no cache" in outcome.summary
        else:
            assert outcome.criterion("streams_the_model").status is Status.PASS
