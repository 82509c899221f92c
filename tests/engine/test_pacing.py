"""Predicted times follow from the rules of the ring, and the plan that is chosen is the fastest one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_checks.engine.pacing import Pace, plan_for_pace, predict_seconds_per_pass
from djinn_checks.engine.plan import Plan
from djinn_checks.engine.residency import plan_residency
from djinn_checks.engine.segments import ALIGNMENT, Cut
from djinn_checks.models.open import open_model
from djinn_checks.systems.ring import EncodedRingSystem, RingSystem
from tests.engine.made_cuts import make_cut

CPU = torch.device("cpu")
BLOCKS, UNITS = 16, 10
CUT = make_cut([UNITS] * BLOCKS)
COPY_S = 0.010
RATE = UNITS * ALIGNMENT / COPY_S


def pace(compute_s: float, gap_s: float = 0.0, cut: Cut = CUT) -> Pace:
    return Pace(copy_latency_s=0.0, copy_bytes_per_s=RATE, compute_s=(compute_s,) * len(cut.points), gap_s=gap_s)


def capacity(blocks: int) -> int:
    return blocks * UNITS * ALIGNMENT


def test_where_copies_take_longer_a_pass_takes_what_its_copies_take() -> None:
    plan = plan_residency(CUT, capacity(2))
    assert predict_seconds_per_pass(plan, CUT, pace(0.001)) == pytest.approx(BLOCKS * COPY_S)


def test_where_computing_takes_longer_a_pass_takes_what_the_points_take() -> None:
    plan = plan_residency(CUT, capacity(2))
    assert predict_seconds_per_pass(plan, CUT, pace(0.03)) == pytest.approx(BLOCKS * 0.03)


def test_resident_blocks_save_their_copies() -> None:
    plan = plan_residency(CUT, capacity(2 + 8))
    assert predict_seconds_per_pass(plan, CUT, pace(0.001)) == pytest.approx(8 * COPY_S)


def test_what_fits_altogether_moves_nothing() -> None:
    plan = plan_residency(CUT, CUT.nbytes)
    assert predict_seconds_per_pass(plan, CUT, pace(0.001, gap_s=0.002)) == pytest.approx(BLOCKS * 0.001 + 0.002)


def test_two_slots_are_enough_where_nothing_stops_the_link_and_as_much_as_fits_stays() -> None:
    assert plan_for_pace(CUT, capacity(6), pace(0.001)) == plan_residency(CUT, capacity(6))


def test_where_both_take_about_as_long_a_deeper_ring_is_worth_a_resident_block() -> None:
    cut = make_cut([UNITS] * 8)
    even = pace(0.8 * COPY_S, cut=cut)
    fullest, chosen = plan_residency(cut, capacity(5)), plan_for_pace(cut, capacity(5), even)
    assert len(chosen.resident) == len(fullest.resident) - 1
    assert chosen.resident_bytes + chosen.ring_bytes <= capacity(5)
    assert predict_seconds_per_pass(chosen, cut, even) < 0.9 * predict_seconds_per_pass(fullest, cut, even)


def test_a_pause_between_forwards_is_no_reason_for_a_deeper_ring() -> None:
    """A slot more lets one more copy run ahead in the pause, a block less is one more copy: nothing is won."""
    slow = pace(0.0005, gap_s=4 * COPY_S)
    assert plan_for_pace(CUT, capacity(8), slow) == plan_residency(CUT, capacity(8))


@given(
    slots=st.integers(2, 12),
    compute_s=st.floats(0, 0.03),
    gap_s=st.floats(0, 0.1),
)
def test_no_pass_is_predicted_to_be_faster_than_its_copies_or_its_computation(
    slots: int, compute_s: float, gap_s: float
) -> None:
    plan, speed = plan_residency(CUT, capacity(slots)), pace(compute_s, gap_s)
    seconds = predict_seconds_per_pass(plan, CUT, speed)
    assert seconds >= 0.999 * plan.bytes_per_pass / RATE
    assert seconds >= 0.999 * (BLOCKS * compute_s + gap_s)
    assert seconds <= 1.001 * (BLOCKS * (compute_s + COPY_S) + gap_s)


def encoded(slots: int, share: float = 0.6) -> Plan:
    wire = [int(share * UNITS) * ALIGNMENT] * BLOCKS
    return plan_residency(CUT, capacity(slots), resident_blocks=0, wire_bytes=wire)


def decoding(compute_s: float, decode_s: float) -> Pace:
    return dataclasses.replace(pace(compute_s), decode_bytes_per_s=UNITS * ALIGNMENT / decode_s)


def test_where_encoded_copies_take_longer_a_pass_takes_what_they_take_and_decodes_cost_nothing() -> None:
    plan = encoded(4)
    assert predict_seconds_per_pass(plan, CUT, decoding(0.001, 0.002)) == pytest.approx(0.6 * BLOCKS * COPY_S)


def test_where_decodes_take_longer_than_copies_a_pass_takes_what_decodes_and_computation_take() -> None:
    plan = encoded(4)
    assert predict_seconds_per_pass(plan, CUT, decoding(0.001, 0.02)) == pytest.approx(BLOCKS * 0.021, rel=0.01)


@given(slots=st.integers(4, 12), compute_s=st.floats(0, 0.03), decode_s=st.floats(1e-4, 0.03))
def test_no_pass_is_predicted_to_be_faster_than_its_encoded_copies_its_decodes_or_its_computation(
    slots: int, compute_s: float, decode_s: float
) -> None:
    plan = encoded(slots)
    seconds = predict_seconds_per_pass(plan, CUT, decoding(compute_s, decode_s))
    assert seconds >= 0.999 * max(plan.bytes_per_pass / RATE, BLOCKS * (compute_s + decode_s))
    assert seconds <= 1.001 * BLOCKS * (0.6 * COPY_S + decode_s + compute_s)


def test_the_plan_for_a_pace_uses_the_bytes_on_the_wire() -> None:
    wire = [6 * ALIGNMENT] * BLOCKS
    plan = plan_for_pace(CUT, capacity(8), decoding(0.001, 0.02), wire_bytes=wire)
    assert plan == plan_residency(CUT, capacity(8), wire_bytes=wire)
    assert plan.landings


def test_blocks_stay_encoded_where_that_is_predicted_to_be_faster_and_nowhere_else() -> None:
    wire = [6 * ALIGNMENT] * BLOCKS
    plain = plan_residency(CUT, capacity(8), wire_bytes=wire)
    fast, slow = decoding(0.001, 0.0005), decoding(0.001, 0.02)
    assert not plan_for_pace(CUT, capacity(8), slow, wire_bytes=wire).stays_encoded
    chosen = plan_for_pace(CUT, capacity(8), fast, wire_bytes=wire)
    assert chosen.stays_encoded
    assert predict_seconds_per_pass(chosen, CUT, fast) < 0.8 * predict_seconds_per_pass(plain, CUT, fast)


def test_a_load_that_two_points_use_is_decoded_once() -> None:
    cut = make_cut([UNITS] * 8, [UNITS], tied=True)
    wire = [6 * ALIGNMENT] * len(cut.segments)
    plan = plan_residency(cut, capacity(3), resident_blocks=0, wire_bytes=wire)
    assert len(plan.uses) == len(plan.loads) + 1
    speed = Pace(
        copy_latency_s=0.0,
        copy_bytes_per_s=1e3 * RATE,
        compute_s=(0.001,) * len(cut.points),
        gap_s=0.0,
        decode_bytes_per_s=UNITS * ALIGNMENT / 0.02,
    )
    wanted = len(plan.loads) * 0.02 + len(cut.points) * 0.001
    assert predict_seconds_per_pass(plan, cut, speed) == pytest.approx(wanted, rel=0.01)


@given(st.integers(0, 9), st.floats(0.0, 0.1), st.floats(0.0, 0.1))
def test_where_no_block_stays_there_is_one_plan_whatever_the_pace(units: int, compute_s: float, gap_s: float) -> None:
    room = capacity(2) + units * ALIGNMENT
    plan = plan_residency(CUT, room)
    assert not any(CUT.segments[index].is_block for index in plan.resident)
    assert plan_for_pace(CUT, room, pace(compute_s, gap_s)) == plan


@pytest.mark.parametrize(
    ("kind", "budget", "expected"),
    [
        (RingSystem, 1_400_000_000, False),  # embeddings, head and two layers of 404 MB
        (RingSystem, 2_000_000_000, True),
        (RingSystem, 14_000_000_000, False),
        (EncodedRingSystem, 1_400_000_000, True),
    ],
)
def test_a_ring_rehearses_on_a_gpu_where_there_is_something_to_choose(
    kind: type[RingSystem], budget: int, expected: bool
) -> None:
    system = kind(open_model("random:llama-2-7b", dtype=torch.float16, device=CPU), device=CPU, budget_bytes=budget)
    assert not system.rehearses, "there is no GPU"
    system.device = torch.device("cuda")
    assert system.rehearses is expected
