"""What is watched is drawn, covers every pass and both kinds of forward, and what came from elsewhere is seen."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from djinn_checks.checks import run as checks_run
from djinn_checks.checks.logits import bench as logits_bench
from djinn_checks.checks.logits import check as logits_check
from djinn_checks.checks.logits.check import check_logits
from djinn_checks.checks.logits.prompt_run import Prompt
from djinn_checks.checks.logits.watch import Place, WatchPlan, draw_watch
from djinn_checks.checks.logits.weight_criteria import describe_wrong
from djinn_checks.outcome import Outcome, Status
from djinn_checks.params import LogitsParams
from tests.checks.logits.honest_places import IN_PLACE, FetchesAheadByChance, OneSetOfPlaces
from tests.checks.logits.honest_systems import HONEST
from tests.fakes import FORWARDS, KeepsNoCount, StreamingFake, TinyModel

TEXTS = ["the link is full", "one"]


@pytest.fixture(autouse=True)
def _tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logits_check, "open_model", lambda spec, *, dtype, device, seed: TinyModel(dtype, seed))
    monkeypatch.setattr(checks_run, "read_environment", lambda device, system="": {"device": str(device)})


def run(system: Any, *, instruments: dict[str, Any] | None = None, **changed: Any) -> Outcome:
    values: dict[str, Any] = {"model": "tiny-fake", "device": "cpu", "prompts": TEXTS, "decode_tokens": 2}
    params = LogitsParams.create(**({"budget_fraction": 0.5, **values} | changed))
    return check_logits(params, system_factory=system, **(instruments or {}))


def draw(
    prompts: int = 3, passes: int = 3, decode_tokens: int = 4, count: int = 4, seed: int | None = None
) -> WatchPlan:
    made = [Prompt(index, "", torch.ones(1, 3 + index, dtype=torch.int64)) for index in range(prompts)]
    return draw_watch(
        made,
        passes=passes,
        decode_tokens=decode_tokens,
        encode=lambda text, most: [len(word) for word in text.split()][:most],
        count=count,
        seed=seed,
    )


@pytest.mark.parametrize("count", [4, 9])
def test_every_pass_has_both_kinds_a_new_prompt_and_a_quiet_witness(count: int) -> None:
    for seed in range(40):
        plan, again = (draw(seed=seed, count=count) for _ in range(2))
        assert (plan.open, plan.quiet, plan.seed) == (again.open, again.quiet, again.seed)
        assert not plan.open & plan.quiet
        assert len({prompt.text for prompt in plan.unforeseen}) == 3
        for number in (1, 2, 3):
            own = [place for place in plan.open if place.pass_number == number]
            assert {place.phase for place in own if place.prompt < 3} == {"prefill", "decode"}
            assert [place.prompt for place in own if place.prompt >= 3] == [2 + number]
            assert any(place.pass_number == number for place in plan.quiet)
            assert len([place for place in plan.open | plan.quiet if place.pass_number == number]) == count
        assert {place.phase for place in plan.quiet} == {"prefill", "decode"}


def test_nobody_can_foresee_what_is_drawn_and_every_forward_may_be() -> None:
    plans = [draw() for _ in range(200)]
    assert len({plan.seed for plan in plans}) == 200
    drawn = set().union(*(plan.open for plan in plans))
    assert drawn >= {Place(n, prompt, step) for n in (1, 2, 3) for prompt in range(3) for step in range(5)}


def test_of_a_single_prompt_one_prefill_is_left_for_the_memory_to_be_measured() -> None:
    for seed in range(20):
        plan = draw(prompts=1, decode_tokens=1, seed=seed)
        assert len({place.pass_number for place in plan.open | plan.quiet if place[1:] == (0, 0)}) == 2


@pytest.mark.parametrize("system", [*HONEST, *IN_PLACE], ids=lambda system: system.name)
def test_an_honest_system_passes(system: Any) -> None:
    outcome = run(system, budget_fraction=getattr(system, "budget_fraction", 0.5))
    assert outcome.status is Status.PASS, outcome.summary


class ClaimsOneForwardLess(FetchesAheadByChance):
    """Claims for all forwards but one."""

    asked = 0

    def claimed_bytes(self) -> int | None:
        self.asked += 1
        return (super().claimed_bytes() or 0) - (self.plan if self.asked > 8 else 0)


class ForgetsNorms(OneSetOfPlaces):
    """Its count lacks a part of every forward."""

    def predicted_bytes_per_pass(self) -> int | None:
        return sum(value.nbytes for weights in self.host for value in weights.values())

    def claimed_bytes(self) -> int | None:
        return 10**15 + (self.moved * 99) // 100


class DecodesCountTooMuch(ForgetsNorms):
    """Some forwards count what nobody moved, and none counts less."""

    asked = 0

    def claimed_bytes(self) -> int | None:
        self.asked += 1
        return self.moved + 64 * (self.asked // 2)


@pytest.mark.parametrize("system", [ForgetsNorms, DecodesCountTooMuch])
def test_a_count_that_is_off_to_one_side_is_not_fetched_ahead(system: Any) -> None:
    assert run(system).criterion("bytes_claimed_vs_planned").status is Status.FAIL


def test_who_fetches_ahead_by_chance_claims_in_the_end_what_it_planned() -> None:
    row = run(FetchesAheadByChance).criterion("bytes_claimed_vs_planned")
    assert row.status is Status.PASS
    assert "fetches ahead by itself" in row.evidence
    assert run(ClaimsOneForwardLess).criterion("bytes_claimed_vs_planned").status is Status.FAIL


class CompiledWhole(StreamingFake):
    """Its blocks' feed-forward parts are compiled, and must be so whole."""

    def open(self) -> Any:
        module = super().open()
        for block in self.blocks:
            block.mlp = torch.compile(block.mlp, backend="eager", fullgraph=True)
        return module


class CompiledInParts(StreamingFake):
    """Likewise, and what cannot be compiled runs as it is."""

    def open(self) -> Any:
        module = super().open()
        for block in self.blocks:
            block.mlp = torch.compile(block.mlp, backend="eager")
        return module


@pytest.mark.parametrize(
    ("system", "says"), [(CompiledWhole, "open it without fullgraph"), (CompiledInParts, "weights never seen in use")]
)
def test_what_is_compiled_cannot_be_watched_and_the_reason_says_so(system: Any, says: str) -> None:
    outcome = run(system)
    assert outcome.status is Status.INCONCLUSIVE, outcome.summary
    assert says in outcome.summary


class CompiledAsAWhole(StreamingFake):
    """All of it is compiled, layers that are put in their places by hooks as well."""

    def open(self) -> Any:
        return torch.compile(super().open(), backend="eager")


def test_a_compiled_model_is_open_and_no_error() -> None:
    outcome = run(CompiledAsAWhole)
    assert outcome.status is Status.INCONCLUSIVE, outcome.summary


class ForgetsItsHead(StreamingFake):
    """The head stays where the skeleton had it. A linear function of PyTorch's computes with it all the same."""

    def open(self) -> Any:
        module = super().open()
        head = module.lm_head
        head.weight = torch.nn.Parameter(head.weight.to("meta"), requires_grad=False)
        return module


def test_a_weight_without_bytes_that_was_computed_with_is_named() -> None:
    outcome = run(ForgetsItsHead)
    assert outcome.status is Status.ERROR
    assert "lm_head.weight" in outcome.summary
    assert "'meta'" in outcome.summary


class LiesOtherwise(StreamingFake):
    """Each matrix is kept transposed: the bytes are right, and the arithmetic may round otherwise."""

    def fill(self, index: int) -> None:
        for name, value in self.host[index].items():
            kept = value.t().contiguous().t() if value.ndim == 2 else value.clone()
            self.blocks[index].get_parameter(name).data = kept
            self.moved += value.nbytes


def test_where_the_weights_were_right_it_is_said_that_the_arithmetic_differs() -> None:
    outcome = run(LiesOtherwise)
    assert not outcome.criterion("weights_at_use").observed
    for name in ("prefill_bit_equal", "decode_bit_equal"):
        row = outcome.criterion(name)
        assert row.status is Status.PASS or "copy each weight into a tensor of its own" in row.reason  # by the CPU


class SpoiltAfterALook(OneSetOfPlaces):
    """A weight is looked at, and then some of its bytes are written in a way that raises no version."""

    def fill(self, index: int) -> None:
        super().fill(index)
        place = self.places["mlp.down_proj.weight"]
        torch.isfinite(place)
        place.data[0, 0] = 0.0


def test_a_look_at_a_weight_does_not_hide_what_is_written_after_it() -> None:
    row = run(SpoiltAfterALook).criterion("weights_at_use")
    assert (row.status, row.observed) == (Status.FAIL, 6)


def _share_lazily(weight: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: torch._lazy_clone(weight)


def _map_again(weight: torch.Tensor) -> Callable[[], torch.Tensor]:
    file = os.memfd_create("weights")
    os.write(file, weight.contiguous().view(torch.uint8).numpy().tobytes())

    def fetch() -> torch.Tensor:
        return torch.frombuffer(mmap.mmap(file, weight.nbytes), dtype=weight.dtype).view(weight.shape)

    return fetch


@pytest.mark.parametrize("share", [_share_lazily, _map_again])
def test_memory_that_is_let_go_and_had_again_without_a_copy_is_no_proof_that_anything_moved(
    share: Callable[[torch.Tensor], Callable[[], torch.Tensor]],
) -> None:
    class Shares(StreamingFake):
        """Keeps everything, and takes hold of it anew for each call."""

        def open(self) -> Any:
            module: Any = self.model.resident(self.device)
            for leaf in module.modules():
                if isinstance(leaf, torch.nn.Linear):
                    fetch = share(leaf._parameters.pop("weight").data)  # type: ignore[union-attr]
                    leaf.forward = lambda x, fetch=fetch: torch.nn.functional.linear(x, fetch())
            return module

        def predicted_bytes_per_pass(self) -> int | None:
            return None

        def claimed_bytes(self) -> int | None:
            return None

        def close(self) -> None:
            pass

    outcome = run(Shares)
    assert outcome.status is Status.INCONCLUSIVE, outcome.summary
    assert "may be held still" in outcome.criterion("weights_streamed").reason


class InPlace(StreamingFake):
    """Its blocks are used where they lie in host memory; each use reads them over the link, if it reads them at all."""

    name = "in-place"
    reads_share = 1.0

    def open(self) -> Any:
        module: Any = self.model.resident(self.device)
        FORWARDS.reset()
        self.host = [dict(block.named_parameters()) for block in module.model.layers]
        FORWARDS.host = {value.data_ptr() for weights in self.host for value in weights.values()}
        nbytes = sum(value.nbytes for weights in self.host for value in weights.values())
        module.register_forward_pre_hook(lambda *_: FORWARDS.read(self.reads_share * nbytes))
        self.blocks, self.slots = [], []
        return module

    def claimed_bytes(self) -> int | None:
        return None


class InPlaceHalf(InPlace):
    """Reads half of what it says it uses from the host."""

    reads_share = 0.5


def test_weights_used_in_place_are_proved_by_the_links_counters() -> None:
    instruments = {"link": FORWARDS, "place_of": FORWARDS.place_of}
    outcome = run(InPlace, instruments=instruments)
    assert outcome.status is Status.PASS, outcome.summary
    row = outcome.criterion("weights_streamed")
    assert "link's counters" in row.evidence
    assert "read in place" in outcome.summary
    assert outcome.criterion("weights_within_budget").observed < outcome.criterion("weights_within_budget").threshold
    assert outcome.criterion("streamed_in_every_forward").status is Status.PASS
    half = run(InPlaceHalf, instruments=instruments)
    assert half.criterion("weights_streamed").status is Status.FAIL
    assert half.criterion("streamed_in_every_forward").status is Status.FAIL


def test_weights_used_in_place_without_counters_are_no_evidence() -> None:
    outcome = run(InPlace, instruments={"place_of": FORWARDS.place_of})
    assert outcome.status is Status.INCONCLUSIVE
    assert "used where they lie in host memory" in outcome.criterion("weights_streamed").reason
    assert "no counters to read" in outcome.criterion("weights_streamed").reason


class CountedStreaming(StreamingFake):
    """Streams, and the link counts what it copies."""

    skipped = -1
    factor = 1.0

    def open(self) -> Any:
        FORWARDS.reset()
        return super().open()

    def fill(self, index: int) -> None:
        super().fill(index)
        if self.forwards != self.skipped:
            FORWARDS.read(sum(value.nbytes for value in self.host[index].values()))

    def predicted_bytes_per_pass(self) -> int | None:
        return None

    def claimed_bytes(self) -> int | None:
        return int(self.factor * self.moved)


class SkipsOne(CountedStreaming):
    """In one forward of all nothing crosses the link."""

    skipped = 14


class ClaimsHalfMore(CountedStreaming):
    """Claims half more than crossed."""

    factor = 1.5


class ClaimsHalf(CountedStreaming):
    """Claims half of what crossed."""

    factor = 0.5


@pytest.mark.parametrize(
    ("system", "caught"),
    [
        (CountedStreaming, set()),
        (SkipsOne, {"streamed_in_every_forward"}),
        (ClaimsHalfMore, {"bytes_claimed_vs_counted"}),
        (ClaimsHalf, {"bytes_claimed_vs_counted", "bytes_claimed_vs_witnessed"}),
    ],
)
def test_the_link_holds_every_forward_and_every_claim(system: Any, caught: set[str]) -> None:
    outcome = run(system, instruments={"link": FORWARDS})
    failed = {row.name for row in outcome.criteria if row.required and row.status is Status.FAIL}
    assert failed == caught, outcome.summary
    if system is SkipsOne:
        assert outcome.criterion("streamed_in_every_forward").observed == 1
        assert "pass 2, prompt 1, decode step 0: 0 B" in outcome.criterion("streamed_in_every_forward").reason


def test_half_precision_with_wide_logits_and_the_last_position_alone_are_compared_where_they_can_be() -> None:
    class Wide(StreamingFake):
        def open(self) -> Any:
            module = super().open()
            module.lm_head.register_forward_hook(lambda _, __, output: output.float())
            return module

    class LastOnly(StreamingFake):
        def open(self) -> Any:
            module = super().open()
            module.lm_head.register_forward_hook(lambda _, __, output: output[:, -1:])
            return module

    class LastOnlyWrong(LastOnly):
        def open(self) -> Any:
            module = super().open()
            module.lm_head.register_forward_hook(lambda _, __, output: output * 2)
            return module

    wide = run(Wide, dtype="bfloat16")
    assert wide.status is Status.PASS, wide.summary
    assert "float32 logits were rounded to bfloat16" in wide.criterion("prefill_bit_equal").evidence
    last = run(LastOnly)
    assert last.status is Status.INCONCLUSIVE
    assert "no logits for" in last.criterion("prefill_bit_equal").reason
    assert last.criterion("decode_bit_equal").status is Status.PASS
    assert run(LastOnlyWrong).criterion("prefill_bit_equal").status is Status.FAIL


def test_a_model_without_a_cache_is_not_passed_for_decoding_through_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgets(TinyModel):
        """Answers each token as if it had no past, as an encoder does that is called token by token."""

        def resident(self, device: torch.device) -> Any:
            module = super().resident(device)
            forward = module.forward
            module.forward = lambda ids, past_key_values=None, use_cache=True: forward(ids, use_cache=True)
            return module

    monkeypatch.setattr(logits_bench, "refuse_foreign", nullcontext)
    monkeypatch.setattr(logits_check, "open_model", lambda spec, *, dtype, device, seed: Forgets(dtype, seed))
    outcome = run(StreamingFake)
    assert outcome.criterion("prefill_bit_equal").status is Status.PASS
    assert outcome.criterion("decode_bit_equal").status is Status.INCONCLUSIVE
    assert "no past" in outcome.criterion("decode_bit_equal").reason


@pytest.mark.parametrize("error", [RuntimeError("no accelerator"), ValueError("the ring is smaller than the model")])
def test_a_system_that_will_not_open_is_heard_in_its_own_words(error: Exception) -> None:
    class Refuses(KeepsNoCount):
        def open(self) -> Any:
            raise error

    class Broken(KeepsNoCount):
        def open(self) -> Any:
            return {}["weights"]

    outcome = run(Refuses)
    assert outcome.status is Status.INCONCLUSIVE
    assert str(error) in outcome.criterion("system_available").reason
    assert run(Broken).status is Status.ERROR


def test_wrong_weights_come_first_with_whose_bytes_they_had() -> None:
    class Confused(StreamingFake):
        def fill(self, index: int) -> None:
            own = self.host[index]
            if index in (1, 2):
                self.host[index] = self.host[index + 3]
            super().fill(index)
            self.host[index] = own

    outcome = run(Confused)
    assert outcome.status is Status.FAIL
    assert "weights_at_use: 18 weights" in outcome.summary
    assert "model.layers.1 had the bytes of model.layers.4 (9 weights)" in outcome.summary
    assert outcome.measurements["witness"]["bytes_of"]["model.layers.2.mlp.up_proj.weight"].startswith("model.layers.5")


def test_wrong_weights_are_told_layer_by_layer_and_those_of_nobody_at_the_end() -> None:
    owners = {"m.1.a": "m.4.a", "m.1.b": "m.4.b", "head": "embed"}
    text = describe_wrong(["head", "m.1.a", "m.1.b", "m.2.a"], owners)
    assert text == "m.1 had the bytes of m.4 (2 weights); head had the bytes of embed; m.2.a had bytes of no weight"
