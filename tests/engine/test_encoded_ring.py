"""Weights that travel compressed are the same weights: bit for bit, within the budget, and never wrong in silence."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import re
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from djinn_checks.engine.codec import Decode
from djinn_checks.engine.encoded_weights import EncodedWeights
from djinn_checks.engine.hooks import RingBufferHooks, install_ring_buffer_hooks
from djinn_checks.engine.link import HostLink
from djinn_checks.engine.plan import Plan
from djinn_checks.engine.planes import PlanesCodec
from djinn_checks.engine.residency import plan_residency
from djinn_checks.engine.ring_buffer import WeightRingBuffer
from djinn_checks.engine.segments import Cut, cut_model
from djinn_checks.engine.weight_stream import WeightStream
from djinn_checks.errors import CapacityError, CodecError, CopyError, EngineError
from djinn_checks.models.open import Model, open_model
from djinn_checks.systems.ring import EncodedRingSystem, RingSystem
from tests.architectures import CONFIGS
from tests.engine.modules import build, decode, logits, prompt, snapshot

CPU = torch.device("cpu")
SLOW_S = 0.004


def ring_for(model: nn.Module, share: float, **options: Any) -> WeightRingBuffer:
    options.setdefault("codec", PlanesCodec())
    ring = WeightRingBuffer(int(cut_model(model).nbytes * share), CPU, **options)
    ring.register_model("model", model)
    return ring


def stream(model: nn.Module, ring: WeightRingBuffer) -> RingBufferHooks:
    """Install hooks with a plan that keeps no block, so that blocks travel encoded if they shrink at all."""

    def planner(cut: Cut, wire_bytes: Sequence[int] | None) -> Plan:
        return plan_residency(cut, ring.capacity_bytes, resident_blocks=0, wire_bytes=wire_bytes)

    return install_ring_buffer_hooks(model, ring, "model", plan=planner)


def stream_of(ring: WeightRingBuffer) -> WeightStream:
    assert ring.stream is not None
    return ring.stream


Results = list[tuple[Tensor, Tensor]]


def results(model: nn.Module) -> Results:
    """Return prefill and decode of two prompts."""
    return [(logits(model, ids), decode(model, ids)) for ids in (prompt(23), prompt(3, seed=1))]


def same(found: Results, expected: Results) -> bool:
    return all(torch.equal(a, b) for pair in zip(found, expected, strict=True) for a, b in zip(*pair, strict=True))


TYPES = [(name, torch.bfloat16) for name in CONFIGS] + [
    (name, dtype) for name in ("llama", "llama-tied", "gpt2") for dtype in (torch.float32, torch.float16)
]


@pytest.mark.parametrize(("name", "dtype"), TYPES, ids=str)
def test_logits_are_bit_equal_and_removal_restores_the_module(name: str, dtype: torch.dtype) -> None:
    model = build(name, dtype)
    before = snapshot(model)
    expected = results(model)
    if dtype is torch.float16:  # some CPUs round it otherwise if all weights lie in one block
        with install_ring_buffer_hooks(model, ring_for(model, 1.0), "model"):
            expected = results(model)
    ring = ring_for(model, 0.7)
    with stream(model, ring):
        plan = stream_of(ring).plan
        assert plan.landings
        assert plan.bytes_per_pass < (0.75 if dtype is torch.bfloat16 else 0.9) * plan.weight_bytes_per_pass
        assert all(same(results(model), expected) for _ in range(2))
    assert snapshot(model) == before


@pytest.mark.parametrize("share", [0.7, 0.9])
def test_blocks_that_stay_encoded_are_decoded_where_they_are_used_and_given_back(share: float) -> None:
    model = build("llama", torch.bfloat16, layers=12)
    before, expected = snapshot(model), results(model)
    with install_ring_buffer_hooks(model, ring := ring_for(model, share), "model"):
        plan = stream_of(ring).plan
        assert plan.stays_encoded
        assert (plan.bytes_per_pass == 0) == (share == 0.9), "at 0.9 all of them fit"
        assert all(same(results(model), expected) for _ in range(2))
        assert (ring.get_stats()["bytes_transferred"] == 0) == (share == 0.9)
    assert snapshot(model) == before


@pytest.fixture(scope="module")
def tiny() -> Model:
    return open_model("random:tiny", dtype=torch.bfloat16, device=CPU)


@pytest.fixture(scope="module")
def models() -> dict[torch.dtype, tuple[nn.Module, Tensor]]:
    """Return a model of each type and its logits of one prompt, all weights resident in one block."""
    made = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = build("llama-tied", dtype)
        with install_ring_buffer_hooks(model, ring_for(model, 1.0), "model"):
            made[dtype] = (model, logits(model, prompt(5)))
    return made


@settings(max_examples=40)
@given(share=st.floats(0.3, 1.1), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_any_budget_gives_the_same_logits_or_a_refusal_and_claims_what_was_planned(
    models: dict[torch.dtype, tuple[nn.Module, Tensor]], share: float, dtype: torch.dtype
) -> None:
    model, expected = models[dtype]
    ring = ring_for(model, share)
    try:
        plain = plan_residency(cut_model(model), ring.capacity_bytes)
    except CapacityError:
        with pytest.raises(CapacityError):
            install_ring_buffer_hooks(model, ring, "model")
        return
    with install_ring_buffer_hooks(model, ring, "model"):
        plan, claims = stream_of(ring).plan, [ring.get_stats()["bytes_transferred"]]
        for _ in range(3):
            assert torch.equal(logits(model, prompt(5)), expected)
            claims.append(ring.get_stats()["bytes_transferred"])
        assert [after - before for before, after in itertools.pairwise(claims)] == [plan.bytes_per_pass] * 3
        assert plan.device_bytes <= ring.capacity_bytes
        assert plan.bytes_per_pass <= plain.bytes_per_pass, "what lands encoded may not cost more than it saves"


def test_bf16_weights_claim_two_thirds_of_their_bytes_on_the_wire(
    tiny: Model,
) -> None:
    system = EncodedRingSystem(tiny, device=CPU, budget_bytes=tiny.weight_bytes // 2)
    assert system.encodes
    assert system.predicted_bytes_per_pass() is None, "how short the weights become is not known before they are read"
    with system:
        system.open()
        assert system.plan.landings
        assert system.plan.bytes_per_pass < 0.7 * system.plan.weight_bytes_per_pass
        assert system.plan.host_bytes == system.plan.bytes_per_pass
    assert system.predicted_bytes_per_pass() == system.plan.bytes_per_pass


def test_the_system_is_registered_under_its_name_and_says_that_it_encodes() -> None:
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["entry-points"]
    module, _, name = declared["djinn_checks.systems"]["ring-ans"].partition(":")
    assert getattr(importlib.import_module(module), name) is EncodedRingSystem
    assert EncodedRingSystem.name == "ring-ans"
    assert EncodedRingSystem.encodes
    assert not RingSystem.encodes


def test_the_timeline_has_the_copy_the_decode_and_the_computation_of_each_layer_in_that_order(
    tiny: Model,
) -> None:
    with EncodedRingSystem(tiny, device=CPU, budget_bytes=tiny.weight_bytes // 2) as system:
        module = system.open()
        assert system.timeline() == []
        for _ in range(2):
            logits(module, prompt(5))
        rows = system.timeline()
        assert len(rows) == 2 * len(system.plan.loads)
        assert sum(row["bytes"] for row in rows) == 2 * system.plan.bytes_per_pass
        assert sum(row["weight_bytes"] for row in rows) == 2 * system.plan.weight_bytes_per_pass
    moments = ["copy_start_s", "copy_end_s", "decode_start_s", "decode_end_s", "compute_start_s", "compute_end_s"]
    for row in rows:
        assert [row[name] for name in moments] == sorted(row[name] for name in moments)


class Patchy(PlanesCodec):
    """Shrinks every other segment and lengthens the others."""

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, plain: Tensor, dtype: torch.dtype) -> Tensor:
        self.encoded += 1
        return super().encode(plain, dtype) if self.encoded % 2 else torch.zeros(plain.numel() + 16, dtype=torch.uint8)


def test_segments_that_do_not_shrink_travel_as_they_are_beside_those_that_do() -> None:
    model = build("llama", torch.bfloat16)
    expected = logits(model, prompt(9))
    with stream(model, ring := ring_for(model, 0.9, codec=Patchy())):
        plan = stream_of(ring).plan
        plain = [load.nbytes == nbytes for load, nbytes in zip(plan.loads, plan.wire_sizes, strict=True)]
        assert plan.landings
        assert any(plain)
        assert not all(plain)
        assert all(torch.equal(logits(model, prompt(9)), expected) for _ in range(3))


class Swells(PlanesCodec):
    def encode(self, plain: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.zeros(plain.numel() + 16, dtype=torch.uint8)


def test_if_nothing_shrinks_all_travel_straight_into_their_places_as_without_a_codec() -> None:
    model = build("llama", torch.bfloat16)
    expected, before = logits(model, prompt(9)), snapshot(model)
    ring = ring_for(model, 0.5, codec=Swells())
    with install_ring_buffer_hooks(model, ring, "model"):
        assert stream_of(ring).plan == plan_residency(cut_model(model), ring.capacity_bytes)
        assert stream_of(ring).stage is None
        assert torch.equal(logits(model, prompt(9)), expected)
    assert snapshot(model) == before


def test_each_weight_is_read_once_though_a_block_is_encoded_to_see_how_short_it_becomes() -> None:
    model = build("llama", torch.bfloat16)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    reads: list[str] = []

    class Counting(dict[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            reads.append(name)
            return super().__getitem__(name)

    expected = logits(model, prompt(9))
    ring = WeightRingBuffer(int(0.8 * cut_model(model).nbytes), CPU, codec=PlanesCodec())
    ring.register_model("model", Counting(state))
    with install_ring_buffer_hooks(model, ring, "model"):
        assert stream_of(ring).plan.resident
        assert stream_of(ring).plan.landings
        assert torch.equal(logits(model, prompt(9)), expected)
    assert sorted(reads) == sorted(set(reads))


def test_a_block_that_comes_out_longer_than_expected_changes_the_plan_and_not_the_logits() -> None:
    class Longer(PlanesCodec):
        """Every block is a little longer than the one before."""

        added = 0

        def encode(self, plain: Tensor, dtype: torch.dtype) -> Tensor:
            self.added += 160
            return torch.cat([super().encode(plain, dtype), torch.zeros(self.added, dtype=torch.uint8)])

    model = build("llama", torch.bfloat16)
    expected = logits(model, prompt(9))
    with stream(model, ring := ring_for(model, 0.75, codec=Longer())):
        wire = stream_of(ring).plan.wire_sizes
        assert len(set(wire)) > 4
        assert stream_of(ring).plan.device_bytes <= ring.capacity_bytes
        assert torch.equal(logits(model, prompt(9)), expected)


def test_a_plan_that_was_made_before_the_bytes_on_the_wire_are_known_is_refused() -> None:
    model = build("llama")
    ring = ring_for(model, 0.6)
    with pytest.raises(EngineError, match="codec 'planes' decides how many bytes travel; give what makes a plan"):
        install_ring_buffer_hooks(model, ring, "model", plan=plan_residency(cut_model(model), ring.capacity_bytes))


def flip(ring: WeightRingBuffer, load: int) -> str:
    """Flip some bits in the encoded bytes of a load, in host memory; return the segment's name."""
    segment = stream_of(ring).plan.loads[load].segment
    stream_of(ring)._host[segment][200:264] ^= 128
    return stream_of(ring).cut.segments[segment].name


def test_bits_that_flip_in_host_memory_are_an_error_of_every_forward_that_needs_them() -> None:
    model = build("llama", torch.bfloat16)
    expected = logits(model, prompt(9))

    def run_twice() -> None:
        for _ in range(2):  # the copies for the first one may have been made before the bits flipped
            assert torch.equal(logits(model, prompt(9)), expected)

    with stream(model, ring := ring_for(model, 0.7)):
        run_twice()
        name = flip(ring, 2)
        for _ in range(2):
            with pytest.raises(CopyError, match=f"copy of '{name}'.*changed in host memory"):
                run_twice()
        with pytest.raises(CodecError, match=f"'{name}': its encoded bytes changed in memory"):
            stream_of(ring).plain(stream_of(ring).plan.loads[2].segment)
        flip(ring, 2)


def test_without_the_proof_flipped_bits_go_through_unseen() -> None:
    model = build("llama", torch.bfloat16)
    expected = logits(model, prompt(9))
    with stream(model, ring := ring_for(model, 0.7, verify=False)):
        flip(ring, 2)
        logits(model, prompt(9))
        assert not torch.equal(logits(model, prompt(9)), expected)
        flip(ring, 2)


def test_a_weight_that_cannot_be_given_back_is_an_error_and_all_others_are_given_back() -> None:
    model = build("llama", torch.bfloat16)
    before = {name: value.clone() for name, value in model.named_parameters()}
    hooks = stream(model, ring := ring_for(model, 0.7))
    name = flip(ring, 2)
    with pytest.raises(CodecError, match=f"'{name}': its encoded bytes changed"):
        hooks.remove()
    assert ring.stream is None
    after = dict(model.named_parameters())
    assert {key for key in before if not torch.equal(before[key], after[key])} == {
        key for key in before if key.startswith(f"{name}.")
    }
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_a_decode_that_fails_surfaces_in_the_forward_that_needed_it_and_the_next_one_is_right() -> None:
    class FailsOnce(PlanesCodec):
        left = 0

        def decoder(
            self, encoded: Tensor, plain: Tensor, dtype: torch.dtype, *, landed: Tensor | None = None
        ) -> Decode:
            whole = super().decoder(encoded, plain, dtype, landed=landed)

            def decode() -> None:
                if FailsOnce.left:
                    FailsOnce.left -= 1
                    raise CodecError("the decoder is out of sorts")
                whole()

            return decode

    model = build("llama", torch.bfloat16)
    expected = logits(model, prompt(9))

    def run_thrice() -> None:
        assert all(torch.equal(logits(model, prompt(9)), expected) for _ in range(3))

    with stream(model, ring_for(model, 0.7, codec=FailsOnce())):
        run_thrice()
        FailsOnce.left = 1
        with pytest.raises(CopyError, match=r"copy of .* failed: the decoder is out of sorts"):
            run_thrice()
        assert all(torch.equal(logits(model, prompt(9)), expected) for _ in range(2))


def test_a_copy_that_fails_surfaces_in_the_forward_that_needed_it_and_the_next_one_is_right() -> None:
    class FailsOnce(HostLink):
        left = 1

        def run(self, slot: int, work: Callable[[], Any], *, after: int | None) -> None:
            if slot == 2 and FailsOnce.left:
                FailsOnce.left -= 1
                work = _fail
            super().run(slot, work, after=after)

    class RaisesOnce(HostLink):
        left = 1

        def copy(self, slot: int, destination: Tensor, source: Tensor, *, after: int | None) -> None:
            if slot == 2 and RaisesOnce.left:
                RaisesOnce.left -= 1
                _fail()
            super().copy(slot, destination, source, after=after)

    model = build("llama", torch.bfloat16)
    expected = logits(model, prompt(9))
    for link in (FailsOnce, RaisesOnce):
        ring = ring_for(model, 0.7, link_factory=lambda device, slots, link=link: link(slots))
        with stream(model, ring):
            failing = stream_of(ring).cut.segments[stream_of(ring).plan.loads[2].segment].name
            with pytest.raises(CopyError, match=f"copy of '{failing}'.*the cable fell out"):
                logits(model, prompt(9))
            assert all(torch.equal(logits(model, prompt(9)), expected) for _ in range(2))


class FailingStep:
    """Makes a link or stage of which one step fails when it comes for the third time.

    It fails when it is given, and is not done, or in its thread: a copy without having been done, a stage's step
    behind it, since what it says to the link is part of it.
    """

    def __init__(self, slot: int, *, at_once: bool, is_done: bool) -> None:
        self.slot, self.at_once, self.is_done = slot, at_once, is_done
        self.times = 0

    def open(self, device: torch.device, slots: int, **_: Any) -> HostLink:
        step = self

        class FailsOnce(HostLink):
            def run(self, slot: int, work: Callable[[], Any], *, after: int | None) -> None:
                super().run(slot, step.work(slot, work), after=after)

        return FailsOnce(slots)

    def work(self, slot: int, work: Callable[[], Any]) -> Callable[[], Any]:
        self.times += slot == self.slot
        if slot != self.slot or self.times != 3:
            return work
        if self.at_once:
            _fail()
        return (lambda: (work(), _fail())) if self.is_done else _fail


@pytest.mark.parametrize("at_once", [False, True], ids=["in-its-thread", "when-given"])
@pytest.mark.parametrize("where", ["link", "stage", "plain-link"])
@pytest.mark.parametrize("name", ["llama", "llama-tied"])
def test_whatever_step_fails_surfaces_in_the_forward_that_needed_it_and_the_next_ones_are_right(
    name: str, where: str, at_once: bool
) -> None:
    model = build(name, torch.bfloat16)
    expected = logits(model, prompt(9))
    codec = None if where == "plain-link" else PlanesCodec()
    place = "stage_factory" if where == "stage" else "link_factory"
    with stream(model, ring_for(model, 0.7, codec=codec)) as hooks:
        last = len(stream_of(hooks.ring).plan.loads) - 1
    for slot in (0, 1, last):
        step = FailingStep(slot, at_once=at_once, is_done=where == "stage")
        errors = []
        with stream(model, ring_for(model, 0.7, codec=codec, **{place: step.open})):
            for _ in range(6):
                try:
                    assert torch.equal(logits(model, prompt(9)), expected)
                except CopyError as error:
                    errors.append(str(error))
        assert len(errors) == 1, (slot, errors)
        assert re.search(r"copy of '.*' .* failed: the cable fell out", errors[0])


def _fail() -> None:
    raise OSError("the cable fell out")


def test_whichever_of_link_decoder_and_computation_is_the_slowest_the_logits_are_the_same() -> None:
    class SlowLink(HostLink):
        def run(self, slot: int, work: Callable[[], Any], *, after: int | None) -> None:
            super().run(slot, lambda: (time.sleep(SLOW_S * (slot % 2)), work()), after=after)

    class SlowCodec(PlanesCodec):
        def decoder(
            self, encoded: Tensor, plain: Tensor, dtype: torch.dtype, *, landed: Tensor | None = None
        ) -> Decode:
            whole = super().decoder(encoded, plain, dtype, landed=landed)
            return lambda: (time.sleep(SLOW_S * (plain.data_ptr() // 512 % 3)), whole())[1]

    def rest(*_: Any) -> None:
        time.sleep(SLOW_S)

    model: Any = build("llama", torch.bfloat16)
    expected = logits(model, prompt(9))
    for share in (0.6, 0.9):
        ring = ring_for(model, share, codec=SlowCodec(), link_factory=lambda device, slots: SlowLink(slots))
        with install_ring_buffer_hooks(model, ring, "model"):
            handle = model.model.layers[2].register_forward_pre_hook(rest)
            assert all(torch.equal(logits(model, prompt(9)), expected) for _ in range(4))
            handle.remove()


def test_a_forward_that_raised_and_a_part_called_alone_do_not_disturb_the_next_forward() -> None:
    model: Any = build("llama", torch.bfloat16)
    expected = logits(model, prompt(9))
    with stream(model, ring_for(model, 0.7)):
        handle = model.model.layers[3].register_forward_pre_hook(_explode)
        with pytest.raises(RuntimeError, match="planted"):
            logits(model, prompt(9))
        handle.remove()
        assert torch.equal(logits(model, prompt(9)), expected)
        with torch.no_grad():
            model.model(prompt(9))
        assert torch.equal(logits(model, prompt(9)), expected)


def _explode(module: nn.Module, args: Any) -> None:
    raise RuntimeError("planted")


def test_a_codec_that_loses_a_bit_is_refused_when_it_encodes() -> None:
    class Lossy(PlanesCodec):
        def encode(self, plain: Tensor, dtype: torch.dtype) -> Tensor:
            rounded = plain.clone()
            rounded[0] ^= 1
            return super().encode(rounded, dtype)

    model = build("llama", torch.bfloat16)
    with pytest.raises(CodecError, match="does not decode to what it was; let the weights travel as they are"):
        stream(model, ring_for(model, 0.7, codec=Lossy()))


def test_what_is_encoded_lies_in_exactly_the_host_memory_that_it_needs() -> None:
    model = build("llama", torch.bfloat16)
    cut = cut_model(model)
    weights = EncodedWeights(cut, dict(model.named_parameters(remove_duplicate=False)), PlanesCodec(), CPU)
    plan = weights.plan(lambda cut, wire: plan_residency(cut, int(0.6 * cut.nbytes), wire_bytes=wire))
    streamed = {load.segment for load in plan.loads} - plan.stays_encoded
    assert sum(weights[segment].nbytes for segment in streamed) == plan.host_bytes
    for segment in streamed:
        kept = weights[segment]
        assert kept.length <= kept.nbytes < kept.length + 16
        assert dataclasses.replace(kept) == kept
    weights.close()
