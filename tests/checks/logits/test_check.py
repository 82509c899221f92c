"""The logits check passes what streams rightly, and names the criterion that catches each planted defect."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaMLP

from djinn_checks.checks import run as checks_run
from djinn_checks.checks.logits import bench as logits_bench
from djinn_checks.checks.logits import check as logits_check
from djinn_checks.checks.logits.check import check_logits
from djinn_checks.checks.prompts import PROMPTS, select_prompts
from djinn_checks.errors import CapacityError, ParamsError, SystemNotInstalledError, SystemUnavailableError
from djinn_checks.models import own_code
from djinn_checks.outcome import Outcome, Status
from djinn_checks.params import LogitsParams
from tests.fakes import (
    ClaimsNothingMoved,
    Crashes,
    FlakyInPass,
    KeepsNoCount,
    LiesAboutBytes,
    NotANumber,
    ResidentFake,
    SlightlyOff,
    StreamingFake,
    TinyModel,
    Unseen,
    ZeroedRow,
)

TEXTS = ["the link is full", "a ring smaller than the model streams every weight once a pass", "one"]
DECODE = 4
FORWARDS_A_PASS = (len(TEXTS) + 1) * (1 + DECODE)  # and a prompt that never came before
ON_A_GPU = (
    "peak_device_memory", "peak_while_opening", "streamed_in_every_forward", "bytes_claimed_vs_counted",
    "device_memory_of_all",
)  # fmt: skip
# Two slots of a block (24,832 bytes each) and embedding, head and norm: what StreamingFake holds.
SLOTS_AND_REST = 2 * 37_120 + 2 * 97 * 32 * 4 + 32 * 4


@pytest.fixture(autouse=True)
def _tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logits_check, "open_model", lambda spec, *, dtype, device, seed: TinyModel(dtype, seed))
    monkeypatch.setattr(checks_run, "read_environment", lambda device, system="": {"device": str(device)})


def params(**changed: Any) -> LogitsParams:
    values: dict[str, Any] = {
        "model": "tiny-fake",
        "system": "ring",
        "device": "cpu",
        "prompts": TEXTS,
        "decode_tokens": DECODE,
        "budget_gb": SLOTS_AND_REST / 1e9,
    }
    return LogitsParams.create(**(values | changed))


def run(system: Any, **changed: Any) -> Outcome:
    return check_logits(params(**changed), system_factory=system)


def failed(outcome: Outcome) -> set[str]:
    return {row.name for row in outcome.criteria if row.required and row.status is Status.FAIL}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_system_that_streams_rightly_passes_every_required_criterion(dtype: str) -> None:
    budget = SLOTS_AND_REST / 1e9 / (2 if dtype == "bfloat16" else 1)
    outcome = run(StreamingFake, dtype=dtype, budget_gb=budget)
    assert outcome.status is Status.PASS, outcome.summary
    statuses = {row.name: row.status for row in outcome.criteria}
    assert {statuses.pop(name) for name in ON_A_GPU} == {Status.SKIP}
    assert set(statuses.values()) == {Status.PASS}
    assert outcome.measurements["localisation"] is None
    witness = outcome.measurements["witness"]
    assert witness["distinct_bytes"] == witness["budget_bytes"]
    assert witness["moved_bytes_lower_bound"] == witness["used_bytes"] - witness["distinct_bytes"] > 0
    for row in outcome.measurements["passes"]:
        assert row["claimed_bytes"] == row["predicted_bytes"] > 0
        assert row["forwards"] == FORWARDS_A_PASS


def test_a_system_that_streams_nothing_fails_though_its_logits_are_bit_equal() -> None:
    outcome = run(ResidentFake)
    assert outcome.status is Status.FAIL
    assert failed(outcome) == {"weights_streamed", "weights_within_budget"}
    assert outcome.criterion("prefill_bit_equal").status is Status.PASS


@pytest.mark.parametrize("system", [ResidentFake, StreamingFake])
def test_a_budget_for_everything_is_refused_since_streaming_could_not_be_proved(system: Any) -> None:
    with pytest.raises(ParamsError, match="nothing has to be streamed"):
        run(system, budget_gb=1.0)


def test_a_zeroed_row_is_found_with_its_layer_and_its_name() -> None:
    outcome = run(ZeroedRow)
    assert {"weights_at_use", "prefill_bit_equal", "decode_bit_equal"} <= failed(outcome)
    assert "weights_streamed" not in failed(outcome)
    found = outcome.measurements["localisation"]
    assert found["weights"] == ["model.layers.2.mlp.up_proj.weight"]
    assert found["first"] == {"pass": 1, "prompt": 0, "phase": "prefill", "position": 0, "layer": "model.layers.2"}
    assert found["reproduced"] is True
    assert found["layers"] == ["embeddings", *(f"model.layers.{index}" for index in range(6)), "logits"]
    for row in found["relative_l2"]:
        assert row[:3] == [0, 0, 0]
        assert min(row[3:]) > 0
    assert "pass 1, prompt 0, prefill position 0, layer model.layers.2" in outcome.criterion("prefill_bit_equal").reason


def test_logits_that_are_off_by_rounding_fail_bit_equality_and_meet_the_tolerances() -> None:
    outcome = run(SlightlyOff)
    assert failed(outcome) == {"prefill_bit_equal", "decode_bit_equal"}
    assert outcome.measurements["localisation"]["first"]["layer"] == "logits"
    assert 0 < outcome.measurements["statistics"]["prefill"]["l2_position_max"] < 1e-4
    assert outcome.criterion("l2_per_position").status is Status.PASS
    assert outcome.criterion("ulp_distance").status is Status.FAIL


def test_bit_equality_may_be_made_informative() -> None:
    outcome = run(SlightlyOff, require_bit_equality=False)
    assert outcome.status is Status.PASS
    assert outcome.criterion("prefill_bit_equal").status is Status.FAIL
    assert "not bit-equal" in outcome.summary


def test_a_difference_in_one_forward_of_one_pass_is_found_and_said_not_to_come_back() -> None:
    decode_step = 2

    class Flaky(FlakyInPass):
        wrong_forward = FORWARDS_A_PASS + (1 + DECODE) + 1 + decode_step + 1

    outcome = run(Flaky)
    luck = {"decode_l2_or_top_k", "weights_at_use"}  # the second if this forward was drawn
    assert failed(outcome) == {"decode_bit_equal"} | (failed(outcome) & luck)
    found = outcome.measurements["localisation"]
    assert found["first"] == {"pass": 2, "prompt": 1, "phase": "decode", "position": decode_step, "layer": None}
    assert found["reproduced"] is False
    assert [row["unequal_elements"] > 0 for row in outcome.measurements["passes"]] == [False, True, False]
    assert "did not come back" in outcome.criterion("decode_bit_equal").reason


def test_a_claim_that_is_not_the_plan_fails() -> None:
    outcome = run(LiesAboutBytes)
    assert failed(outcome) == {"bytes_claimed_vs_planned"}
    assert outcome.criterion("bytes_claimed_vs_planned").observed == 3 * FORWARDS_A_PASS


def test_a_claim_below_what_was_certainly_written_fails() -> None:
    assert failed(run(ClaimsNothingMoved)) == {"bytes_claimed_vs_witnessed"}


def test_a_system_without_claims_is_judged_by_the_witness_alone() -> None:
    outcome = run(KeepsNoCount)
    assert outcome.status is Status.PASS
    for name in ("bytes_claimed_vs_planned", "bytes_claimed_vs_witnessed"):
        assert outcome.criterion(name).status is Status.SKIP
        assert outcome.criterion(name).reason


def test_nan_fails_and_survives_json() -> None:
    outcome = run(NotANumber)
    assert {"finite_logits", "prefill_bit_equal", "prefill_l2_or_top_k"} <= failed(outcome)
    assert Outcome.from_dict(json.loads(json.dumps(outcome.to_dict()))).status is Status.FAIL


def test_weights_that_cannot_be_seen_are_no_evidence_and_no_pass() -> None:
    outcome = run(Unseen)
    assert outcome.criterion("prefill_bit_equal").status is Status.PASS
    assert outcome.criterion("weights_streamed").status is Status.INCONCLUSIVE
    assert outcome.criterion("weights_at_use").status is Status.INCONCLUSIVE
    assert outcome.measurements["witness"] is None
    assert outcome.status is not Status.PASS


def test_a_budget_below_what_is_held_fails() -> None:
    outcome = run(StreamingFake, budget_gb=(SLOTS_AND_REST - 4) / 1e9)
    assert failed(outcome) == {"weights_within_budget", "weights_streamed"}


def test_a_reference_that_differs_from_itself_makes_equality_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    class Noisy(TinyModel):
        def resident(self, device: torch.device) -> Any:
            module = super().resident(device)
            module.lm_head.register_forward_hook(lambda _, __, output: output + 1e-4 * torch.randn_like(output))
            return module

    monkeypatch.setattr(logits_bench, "refuse_foreign", nullcontext)
    monkeypatch.setattr(logits_check, "open_model", lambda spec, *, dtype, device, seed: Noisy(dtype, seed))
    outcome = run(StreamingFake)
    assert outcome.criterion("prefill_bit_equal").status is Status.INCONCLUSIVE
    assert outcome.criterion("prefill_l2_or_top_k").status is Status.PASS
    assert outcome.status is Status.INCONCLUSIVE


@pytest.mark.parametrize("system", [StreamingFake, ZeroedRow])
def test_two_runs_of_the_same_params_give_the_same_outcome(system: Any) -> None:
    first, second = run(system, watch_seed=7), run(system, watch_seed=7)
    assert first.stable_dict() == second.stable_dict()
    assert first.timings["watch_seed"] == 7
    assert first.timings["watched"] == second.timings["watched"] != []


def test_each_run_draws_anew_and_the_same_draw_gives_the_same_outcome() -> None:
    first, second = run(StreamingFake), run(StreamingFake)
    assert first.timings["watch_seed"] != second.timings["watch_seed"]
    assert [(row.name, row.status) for row in first.criteria] == [(row.name, row.status) for row in second.criteria]
    again = run(StreamingFake, watch_seed=first.timings["watch_seed"])
    assert {**again.stable_dict(), "params": first.params} == first.stable_dict()


def test_a_crash_is_an_error_with_its_traceback() -> None:
    outcome = run(Crashes)
    assert outcome.status is Status.ERROR
    assert outcome.failure is not None
    assert "copy engine" in outcome.failure.message
    assert "count_forward" in outcome.failure.traceback


@pytest.mark.parametrize("error", [SystemUnavailableError("no such GPU"), SystemNotInstalledError("pip install it")])
def test_a_system_that_cannot_run_here_is_inconclusive(error: Exception) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    outcome = run(refuse)
    assert outcome.status is Status.INCONCLUSIVE
    assert str(error) in outcome.summary
    assert outcome.criterion("system_available").status is Status.INCONCLUSIVE


def test_a_gpu_that_is_not_there_is_inconclusive() -> None:
    assert run(StreamingFake, device="cuda:97").status is Status.INCONCLUSIVE


@pytest.mark.parametrize("budget", ["budget_gb", "budget_fraction"])
def test_a_budget_that_is_too_small_is_a_params_error_before_weights_load(
    budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise CapacityError("needs two layers")

    monkeypatch.setattr(TinyModel, "resident", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(ParamsError, match=f"{budget}.*needs two layers"):
        run(refuse, **{"budget_gb": None, budget: 0.0001})


def test_an_unknown_system_is_a_params_error() -> None:
    with pytest.raises(ParamsError, match="unknown name 'rung'"):
        check_logits(params(system="rung"))


def test_progress_and_the_clock_are_the_callers() -> None:
    ticks = iter(range(1000))
    seen: list[tuple[str, int, int]] = []
    outcome = check_logits(
        params(),
        system_factory=StreamingFake,
        clock=lambda: float(next(ticks)),
        progress=lambda stage, done, total: seen.append((stage, done, total)),
    )
    assert ("pass 3 of 3", 2, 4) in seen
    assert outcome.timings["passes_s"] == [1.0, 1.0, 1.0]
    assert outcome.timings["total_s"] > 0
    assert outcome.environment == {"device": "cpu"}


def test_a_prompt_without_text_is_a_params_error() -> None:
    with pytest.raises(ParamsError, match="prompt 1 is empty"):
        run(StreamingFake, prompts=["one", " "])


def test_there_are_thirty_different_prompts_and_any_number_of_them_spans_the_lengths() -> None:
    assert len(set(PROMPTS)) == 30
    assert len(PROMPTS[-1].split()) > 300
    for count in range(2, 31):
        chosen = select_prompts(count)
        assert len(set(chosen)) == count
        assert (chosen[0], chosen[-1]) == (PROMPTS[0], PROMPTS[-1])


@pytest.mark.parametrize(("dtype", "tokens"), [("float32", 512), ("bfloat16", 128)])  # bfloat16 is slow on a CPU
def test_a_trained_model_through_a_ring_of_a_quarter_of_its_bytes_is_bit_equal(
    dtype: str, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real model, not the fake of this file
    chosen = params(
        model="smollm2", dtype=dtype, prompts=2, decode_tokens=2, passes=3, budget_gb=None, budget_fraction=0.25,
        max_prompt_tokens=tokens,
    )  # fmt: skip
    outcome = check_logits(chosen)
    assert outcome.status is Status.PASS, outcome.summary
    assert all(row.status in (Status.PASS, Status.SKIP) for row in outcome.criteria if row.required)
    forwards = (2 + 1) * (1 + 2)  # one prompt of each pass never came before
    for row in outcome.measurements["passes"]:
        assert row["forwards"] == forwards
        assert row["unequal_elements"] == 0
        assert row["claimed_bytes"] == row["predicted_bytes"] > 0
    witness = outcome.measurements["witness"]
    assert witness["moved_bytes_lower_bound"] >= witness["used_bytes"] - witness["budget_bytes"] > 0


class ReplacesForAll(StreamingFake):
    """Replaces a method of all feed-forward parts, for the whole process."""

    wrong = False
    calls = 0

    def open(self) -> Any:
        original, wrong = LlamaMLP.forward, self.wrong

        def forward(mlp: Any, hidden: Tensor) -> Tensor:
            assert self.blocks, "it was closed"
            self.calls += 1
            return original(mlp, hidden) * (1.5 if wrong else 1)

        LlamaMLP.forward = forward
        return super().open()


@pytest.mark.parametrize("wrong", [False, True])
def test_what_a_system_replaces_for_all_is_not_in_the_reference(wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlamaMLP, "forward", LlamaMLP.forward)
    monkeypatch.setattr(ReplacesForAll, "wrong", wrong)
    outcome = check_logits(params(), system_factory=ReplacesForAll)
    assert outcome.status is (Status.FAIL if wrong else Status.PASS), outcome.summary
    assert "bit_equal" in outcome.summary or not wrong


def test_what_was_replaced_before_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_code, "_FIRST", {})
    monkeypatch.setattr(LlamaMLP, "forward", lambda mlp, hidden: hidden)
    outcome = check_logits(params(), system_factory=StreamingFake)
    assert outcome.status is Status.INCONCLUSIVE
    assert "the resident model ran tests.checks.logits.test_check.test_what_was_replaced_before" in outcome.summary


class ReplacesOnce(ReplacesForAll):
    """Replaces it once in a process, and never puts the original back."""

    first: Any = None

    def open(self) -> Any:
        if ReplacesOnce.first is None:
            ReplacesOnce.first = self
            return super().open()
        return StreamingFake.open(self)

    def close(self) -> None:
        """Leave it open."""


def test_what_a_system_left_behind_does_not_run_in_the_next_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlamaMLP, "forward", LlamaMLP.forward)
    for system in (ReplacesOnce, ReplacesOnce, StreamingFake):
        outcome = check_logits(params(), system_factory=system)
        assert outcome.status is Status.PASS, outcome.summary
    assert ReplacesOnce.first.calls > 0


class SaysEqual(SlightlyOff):
    """Replaces what logits could be compared by."""

    def open(self) -> Any:
        torch.equal = lambda *_: True
        return super().open()


def test_logits_are_compared_by_pytorchs_own_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "equal", torch.equal)
    assert check_logits(params(), system_factory=SaysEqual).status is Status.FAIL


class Fetched(nn.Parameter):
    """Stands for a weight that is fetched when a function needs it."""

    fetch: Any

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear:
            args = [value.fetch() if isinstance(value, Fetched) else value for value in args]
        return super().__torch_function__(func, types, args, kwargs or {})


class FetchesInAClass(KeepsNoCount):
    """Matrices are zeros whose class puts the weight in their place."""

    def open(self) -> Any:
        module = super().open()
        for block in self.blocks:
            for leaf in block.modules():
                if isinstance(leaf, nn.Linear):
                    kept = leaf.weight.data
                    leaf.weight = Fetched(torch.zeros_like(kept), requires_grad=False)
                    leaf.weight.fetch = kept.clone
        return module

    def fill(self, index: int) -> None:
        """Fill nothing."""


def test_what_a_class_of_tensors_puts_in_its_place_is_not_seen_and_accuses_nobody() -> None:
    outcome = check_logits(params(), system_factory=FetchesInAClass)
    assert outcome.status is Status.INCONCLUSIVE, outcome.summary
    assert "a class of tensors of the system's own" in outcome.summary
