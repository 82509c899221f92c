"""On streams that run in any order their events allow, every computation finds its own segment in place."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from djinn_checks.engine.plan import Plan
from djinn_checks.engine.residency import plan_residency
from djinn_checks.engine.route import DecodingRoute
from djinn_checks.engine.segments import ALIGNMENT
from djinn_checks.errors import CapacityError
from tests.engine.made_cuts import make_cut
from tests.engine.made_streams import StreamLink, Streams

CYCLES = 3


class WrongBytesError(AssertionError):
    """A computation or a decode found another segment than its own."""


def drive(plan: Plan, seed: int, *, skipped: set[int] = frozenset()) -> int:  # type: ignore[assignment]
    """Run some cycles of a plan; return the bytes that the route said it copied. A segment's bytes are its number."""
    chance, streams, count = random.Random(seed), Streams(), len(plan.loads)
    link, stage = StreamLink(streams, "link", count), StreamLink(streams, "stage", count)
    ring = torch.full((plan.ring_bytes // ALIGNMENT,), -1)
    zone = torch.full((plan.landing_bytes // ALIGNMENT,), -1)
    landings = [
        zone[step.offset // ALIGNMENT :][: -(-step.nbytes // ALIGNMENT)] if step is not None else None
        for step in plan.landings
    ]
    hosts = [
        torch.full_like(landing, load.segment) if landing is not None else None
        for landing, load in zip(landings, plan.loads, strict=True)
    ]
    places = [ring[load.offset // ALIGNMENT :][: load.nbytes // ALIGNMENT] for load in plan.loads]

    def look(slot: int, at: torch.Tensor) -> None:
        if not bool((at == plan.loads[slot].segment).all()):
            raise WrongBytesError(f"load {slot} found {at.tolist()}")

    def decode(slot: int) -> None:
        def work() -> None:
            landed = landings[slot]
            if landed is not None:
                look(slot, landed)
            places[slot].fill_(plan.loads[slot].segment)

        streams.enqueue(work)

    copied: list[int] = []
    route = DecodingRoute(
        plan, link, stage, landings=landings, hosts=hosts,
        decoders=[lambda slot=slot: decode(slot) for slot in range(count)], copied=copied.append,
    )  # fmt: skip
    route.advance(0)
    for used in range(CYCLES * count):
        slot = used % count
        if used not in skipped:
            route.wait(slot)
            streams.enqueue(lambda slot=slot: look(slot, places[slot]))
        route.mark(slot)
        route.advance(used + 1)
        streams.run(chance, chance.randrange(12))
    streams.run(chance)
    return sum(copied)


def drive_often(plan: Plan) -> None:
    for seed in range(40):
        drive(plan, seed)


plans = st.builds(
    lambda *made: made,
    st.lists(st.integers(2, 12), min_size=3, max_size=9),
    st.lists(st.integers(1, 20), max_size=2),
    st.floats(0.3, 0.95),
    st.floats(0, 1),
    st.integers(0, 3),
)


def make_plan(
    blocks: list[int], outer: list[int], share: float, budget: float, encoded: int = 0, *, tied: bool = False
) -> Plan:
    cut = make_cut(blocks, outer, tied=tied and bool(outer))
    wire = [max(16, int(share * segment.nbytes) // 16 * 16) for segment in cut.segments]
    two = 2 * max(segment.nbytes for segment in cut.segments)
    least = min(cut.nbytes, 2 * two)
    capacity = int(least + budget * (cut.nbytes - least))
    return plan_residency(cut, capacity, wire_bytes=wire, encoded_blocks=encoded)


@given(made=plans, tied=st.booleans(), seed=st.integers(0, 2**32), skipped=st.sets(st.integers(0, 26)))
def test_every_decode_and_every_computation_finds_its_own_segment(
    made: tuple[list[int], list[int], float, float, int], tied: bool, seed: int, skipped: set[int]
) -> None:
    try:
        plan = make_plan(*made, tied=tied)
    except CapacityError:
        reject()
    assume(plan.landings)
    drive(plan, seed, skipped=skipped)


BLOCKS = [7, 9, 8, 9, 7, 9, 8]


@pytest.mark.parametrize("what", ["loads", "landings"])
def test_a_step_that_starts_one_load_too_early_is_seen(what: str) -> None:
    plan = make_plan(BLOCKS, [], 0.6, 0.0)
    steps = [step for step in getattr(plan, what) if step]
    early = tuple(dataclasses.replace(step, blocker_distance=step.blocker_distance + 1) for step in steps)
    broken = dataclasses.replace(plan, **{what: early})
    drive_often(plan)
    with pytest.raises(WrongBytesError):
        drive_often(broken)


def test_a_decode_that_does_not_wait_for_its_copy_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(BLOCKS, [], 0.6, 0.0)
    whole = StreamLink.wait
    monkeypatch.setattr(StreamLink, "wait", lambda self, slot: whole(self, slot) if self._name == "stage" else None)
    with pytest.raises(WrongBytesError):
        drive_often(plan)


def test_copies_run_ahead_into_the_landing_zone_while_no_load_has_been_used() -> None:
    cut = make_cut([8] * 12)
    plan = plan_residency(cut, 28 * ALIGNMENT, resident_blocks=0, wire_bytes=[4 * ALIGNMENT] * 12)
    streams, count = Streams(), len(plan.loads)
    link, stage = StreamLink(streams, "link", count), StreamLink(streams, "stage", count)
    copied: list[int] = []
    zone = torch.zeros(plan.landing_bytes, dtype=torch.uint8)
    landings = [zone[step.offset :][: step.nbytes] for step in plan.landings if step is not None]
    route = DecodingRoute(
        plan, link, stage, landings=landings, hosts=landings, decoders=[lambda: None] * count, copied=copied.append
    )
    route.advance(0)
    slots = plan.landing_bytes // landings[0].numel()
    assert len(copied) == slots == 5
    assert copied == list(plan.wire_sizes[: len(copied)])
