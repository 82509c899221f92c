"""The plan: what stays, where the rest goes, and that no copy can overwrite bytes still in use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from djinn_checks.engine.plan import Plan
from djinn_checks.engine.residency import evenly_spread, plan_fewest_bytes, plan_residency
from djinn_checks.engine.segments import ALIGNMENT, Cut
from djinn_checks.errors import CapacityError
from tests.engine.made_cuts import make_cut

cuts = st.builds(
    make_cut,
    st.lists(st.integers(1, 40), min_size=2, max_size=20),
    st.lists(st.integers(1, 60), max_size=3),
)


def smallest_capacity(cut: Cut) -> int:
    return sum(sorted((segment.nbytes for segment in cut.segments), reverse=True)[:2])


@given(cut=cuts, share=st.floats(0, 1))
def test_everything_is_placed_within_the_budget_and_no_segment_is_split(cut: Cut, share: float) -> None:
    least = smallest_capacity(cut)
    capacity = int(least + share * (cut.nbytes - least))
    plan = plan_residency(cut, capacity)
    assert plan.resident_bytes + plan.ring_bytes <= capacity
    streamed = {load.segment for load in plan.loads}
    assert streamed | set(plan.resident) == set(range(len(cut.segments)))
    assert not streamed & set(plan.resident)
    assert all(load.offset >= 0 and load.offset + load.nbytes <= plan.ring_bytes for load in plan.loads)


@given(cut=cuts, share=st.floats(0, 1), choices=st.lists(st.booleans(), max_size=200))
def test_no_order_of_copies_and_uses_overwrites_a_segment_before_it_was_used(
    cut: Cut, share: float, choices: list[bool]
) -> None:
    least = smallest_capacity(cut)
    plan = plan_residency(cut, int(least + share * (cut.nbytes - least)))
    if len(plan.loads) < 2:
        return
    issued = used = 0
    for copy_next in choices:
        if copy_next and may_issue(plan, issued, used):
            for pending in range(used, issued):
                assert not overlap(plan, pending, issued)
            issued += 1
        elif used < issued:
            used += 1


def may_issue(plan: Plan, issued: int, used: int) -> bool:
    n = len(plan.loads)
    return issued < used + n and issued - plan.loads[issued % n].blocker_distance < used


def overlap(plan: Plan, a: int, b: int) -> bool:
    first, second = plan.loads[a % len(plan.loads)], plan.loads[b % len(plan.loads)]
    return first.offset < second.offset + second.nbytes and second.offset < first.offset + first.nbytes


@given(cut=cuts, share=st.floats(0, 1), shrunk=st.floats(0.1, 0.99))
def test_what_lands_encoded_has_its_place_within_the_budget_too(cut: Cut, share: float, shrunk: float) -> None:
    wire = [int(shrunk * segment.nbytes) // 16 * 16 for segment in cut.segments]
    least = 2 * smallest_capacity(cut)
    plan = plan_residency(cut, int(least + share * max(0, cut.nbytes - least)), wire_bytes=wire)
    assert plan.device_bytes <= max(least, cut.nbytes)
    assert len(plan.landings) == len(plan.loads)
    for load, landing in zip(plan.loads, plan.landings, strict=True):
        assert landing is not None
        assert landing.nbytes == wire[load.segment]
        assert landing.offset % ALIGNMENT == 0
        assert 0 <= landing.offset <= landing.offset + landing.nbytes <= plan.landing_bytes
        assert load.offset + load.nbytes <= plan.ring_bytes
    streamed = {load.segment for load in plan.loads}
    assert plan.host_bytes == sum(wire[segment] for segment in streamed)
    if len(plan.loads) > 1:
        assert plan.bytes_per_pass == sum(wire[load.segment] for load in plan.loads) < plan.weight_bytes_per_pass


def test_a_budget_that_lacks_room_for_what_lands_is_refused_with_the_size_that_would_do() -> None:
    cut = make_cut([10] * 8)
    wire = [6 * ALIGNMENT] * 8
    with pytest.raises(CapacityError, match=r"and 6.14 kB of encoded bytes that land; give at least 11,264 bytes"):
        plan_residency(cut, 22 * ALIGNMENT - 1, wire_bytes=wire)
    plan = plan_residency(cut, 22 * ALIGNMENT, wire_bytes=wire)
    assert (plan.ring_bytes, plan.landing_bytes) == (10 * ALIGNMENT, 12 * ALIGNMENT)


def test_what_the_ring_does_not_need_goes_to_the_landing_zone_where_copies_run_ahead_cheaper() -> None:
    cut = make_cut([10] * 9)
    plan = plan_residency(cut, 50 * ALIGNMENT, resident_blocks=0, wire_bytes=[6 * ALIGNMENT] * 9)
    assert plan.ring_bytes == 10 * ALIGNMENT
    assert {landing.offset for landing in plan.landings if landing} == {place * 6 * ALIGNMENT for place in range(6)}


def test_blocks_that_are_encoded_to_nearly_the_same_length_land_in_rooms_of_one_size() -> None:
    cut = make_cut([100] * 12)
    wire = [60 * ALIGNMENT + 16 * (number % 5) for number in range(12)]
    plan = plan_residency(cut, 290 * ALIGNMENT, resident_blocks=0, wire_bytes=wire)
    assert len({landing.offset for landing in plan.landings if landing}) == 3
    assert min(landing.blocker_distance for landing in plan.landings if landing) == 3


def test_where_nothing_is_shorter_on_the_wire_there_is_no_landing_zone() -> None:
    cut = make_cut([10] * 8)
    assert plan_residency(cut, 40 * ALIGNMENT, wire_bytes=[10 * ALIGNMENT] * 8) == plan_residency(cut, 40 * ALIGNMENT)


@given(cut=cuts, share=st.floats(0, 1), shrunk=st.floats(0.1, 0.99), encoded=st.integers(0, 8))
def test_blocks_that_stay_encoded_fit_the_budget_and_do_not_travel(
    cut: Cut, share: float, shrunk: float, encoded: int
) -> None:
    wire = [int(shrunk * segment.nbytes) // 16 * 16 for segment in cut.segments]
    least = 2 * smallest_capacity(cut)
    capacity = int(least + share * max(0, cut.nbytes - least))
    try:
        plan = plan_residency(cut, capacity, wire_bytes=wire, encoded_blocks=encoded)
    except CapacityError:
        return
    assert plan.device_bytes <= capacity
    assert len(plan.stays_encoded) == (encoded if plan.loads else 0)
    assert not plan.stays_encoded & set(plan.resident)
    moved = {load.segment for load in plan.loads} - plan.stays_encoded
    assert plan.host_bytes == sum(wire[segment] for segment in moved)
    for load, nbytes in zip(plan.loads, plan.wire_sizes, strict=True):
        assert nbytes == (0 if load.segment in plan.stays_encoded else wire[load.segment])


def test_the_fewest_bytes_travel_if_blocks_stay_encoded_and_no_more_of_them_than_it_takes() -> None:
    cut = make_cut([10] * 12)
    wire = [6 * ALIGNMENT] * 12
    plain = plan_residency(cut, 70 * ALIGNMENT, wire_bytes=wire)
    plan = plan_fewest_bytes(cut, 70 * ALIGNMENT, wire_bytes=wire)
    assert plain.bytes_per_pass == 8 * 6 * ALIGNMENT  # 48 units hold four blocks
    assert plan.bytes_per_pass == 4 * 6 * ALIGNMENT  # or eight that are encoded
    assert len(plan.stays_encoded) == 8
    assert plan_fewest_bytes(cut, 70 * ALIGNMENT) == plan_residency(cut, 70 * ALIGNMENT)
    roomy = plan_fewest_bytes(cut, 96 * ALIGNMENT, wire_bytes=wire)
    assert roomy.bytes_per_pass == 0
    assert len(roomy.stays_encoded) == 9  # 10 units of ring, nine blocks of 6, and three of 10 as they are
    assert len(roomy.resident) == 3
    assert roomy.device_bytes == 94 * ALIGNMENT


@given(count=st.integers(0, 80), total=st.integers(1, 80))
def test_resident_blocks_are_spread_so_that_gaps_differ_by_one_at_most(count: int, total: int) -> None:
    if count > total:
        return
    positions = evenly_spread(count, total)
    assert len(set(positions)) == count
    assert all(0 <= position < total for position in positions)
    gaps = [(positions[(i + 1) % count] - positions[i]) % total or total for i in range(count)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_a_model_that_fits_stays_whole_and_moves_nothing() -> None:
    cut = make_cut([10, 10, 10], [5])
    plan = plan_residency(cut, cut.nbytes)
    assert plan.loads == ()
    assert plan.bytes_per_pass == 0


def test_a_tied_embedding_is_copied_once_a_pass_for_its_two_uses() -> None:
    cut = make_cut([10] * 8, [60], tied=True)
    plan = plan_residency(cut, 70 * ALIGNMENT)
    assert [load for _, load in plan.uses] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 0]
    assert plan.bytes_per_pass == cut.nbytes


def test_resident_layers_leave_the_rest_of_the_bytes_to_the_link() -> None:
    cut = make_cut([10] * 32, [6, 6])
    for resident in (0, 8, 16, 24):
        plan = plan_residency(cut, (12 + 10 * (resident + 2)) * ALIGNMENT, resident_blocks=resident)
        assert plan.bytes_per_pass == 10 * (32 - resident) * ALIGNMENT
        assert {load.blocker_distance for load in plan.loads} == {2}


def test_a_ring_smaller_than_its_two_largest_layers_is_refused_with_the_size_that_would_do() -> None:
    cut = make_cut([10, 10, 30, 20])
    with pytest.raises(CapacityError, match=r"two largest layers, block2 .* \+ block3 .* give at least 25,600 bytes"):
        plan_residency(cut, 50 * ALIGNMENT - 1)
    assert plan_residency(cut, 50 * ALIGNMENT).loads


def test_more_resident_blocks_than_fit_are_refused_with_the_size_that_would_do() -> None:
    cut = make_cut([10] * 8)
    with pytest.raises(
        CapacityError, match=r"25.6 kB that stays resident \(5 blocks among it, as asked\).* give at least 35,840"
    ):
        plan_residency(cut, 60 * ALIGNMENT, resident_blocks=5)


def test_more_resident_blocks_than_there_are_are_refused() -> None:
    with pytest.raises(CapacityError, match="9 resident blocks were asked for, and the model has 8"):
        plan_residency(make_cut([10] * 8), 70 * ALIGNMENT, resident_blocks=9)
