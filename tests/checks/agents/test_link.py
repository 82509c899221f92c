"""What is counted on the link is the KV: neither chatter nor what comes later fills up what is missing.

And a move takes as long as its bytes are on the link, whatever the server says.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from djinn_checks.checks.agents import link as agent_link
from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.link import LinkEvidence, LinkWitness
from djinn_checks.checks.agents.reply import Reply, SessionRecord
from djinn_checks.checks.agents.sleeper import Sleep
from djinn_checks.checks.agents.sleeper_criteria import _on_link
from djinn_checks.checks.agents.speed_criteria import judge_moves
from djinn_checks.instruments.ceiling import Ceiling
from djinn_checks.instruments.counters import Floats, build_series
from djinn_checks.instruments.server_memory import MemorySeries
from djinn_checks.outcome import Criterion, Status
from tests.checks.agents.made_evidence import make_evidence, make_reference, make_run

KV = 1_000_000_000
"""Bytes, of 101 tokens whose last one has not been fed back."""
CHATTER = 20e6
"""Bytes per second of a link at rest, as counters that are read a thousand times a second see them."""
WIRE = {"rx": 1.08, "tx": 1.09}
RATE = 50e9
ANSWERED_S, TOLD_S, WOKEN_S, FIRST_TOKEN_S = 1.7, 2.0, 32.0, 32.06

MILLISECONDS = np.arange(0, 35, 1e-3)
"""When the counters are read."""

Copies = list[tuple[float, float]]
"""When each begins, and its bytes."""


def judged(out: Copies, back: Copies) -> dict[str, Criterion]:
    evidence = agents_evidence(watched(out, back))
    return {direction: _on_link(evidence, direction) for direction in ("out", "in")}


def watched(out: Copies, back: Copies, *, rate: float = RATE, times: Floats = MILLISECONDS) -> LinkEvidence:
    """Make what is counted when these copies go each way at a rate, after those that measured the ceilings."""
    ceilings = {"out": ceiling("d2h", 1.0), "in": ceiling("h2d", 0.0)}
    counted = {"tx": payload(times, [(1.1, KV)], RATE) + payload(times, out, rate)}
    counted["rx"] = payload(times, [(0.1, KV)], RATE) + payload(times, back, rate)
    raw = {
        name: np.mod((CHATTER * times + sums) * WIRE[name], 2**32).astype(np.int64) for name, sums in counted.items()
    }
    series = build_series(times, times, raw["rx"], raw["tx"], source="made")
    return LinkEvidence(ceilings=ceilings, series=series)


def payload(times: Floats, copies: Copies, rate: float) -> Floats:
    return np.sum([np.clip((times - start) * rate, 0, nbytes) for start, nbytes in copies], axis=0)


def ceiling(direction: str, start_s: float) -> Ceiling:
    return Ceiling(
        kind="pcie", direction=direction, pinned=True, nbytes=KV, bytes_per_s=RATE, spread=0.0, samples_s=(),
        verified=True, start_s=start_s, end_s=start_s + 0.2, copied_bytes=KV,
    )  # fmt: skip


def agents_evidence(link: LinkEvidence, *, told_s: float | None = None) -> AgentsEvidence:
    """Make the evidence of one sleep, whose moves took `told_s` each by the server's word."""
    record = SessionRecord(swap_s=told_s, restore_s=told_s)
    reply = Reply(ids=(1,), sent_s=WOKEN_S, token_at_s=(FIRST_TOKEN_S,))
    sleep = Sleep(
        told_s=TOLD_S, woken_s=WOKEN_S, tokens=101, asleep=record, after=record, reply=reply,
        last=Reply(sent_s=1.0, token_at_s=(ANSWERED_S,)),
    )  # fmt: skip
    run = make_run(reply, sleeps=(sleep,), closed_s=34.0, gone_s=34.3)
    times = [step * 0.02 for step in range(1750)]
    return make_evidence(
        device=torch.device("cuda"),
        sleeper=run,
        reference=make_reference(KV),
        memory=MemorySeries("made", times, [0] * len(times)),
        link=link,
    )


def test_a_session_that_leaves_and_comes_back_counts_once_each_way() -> None:
    rows = judged([(2.01, KV)], [(32.005, KV)])
    assert {row.status for row in rows.values()} == {Status.PASS}
    assert [row.observed for row in rows.values()] == pytest.approx([1.0, 1.0], abs=0.01)


def test_a_session_that_leaves_by_itself_as_the_pause_came_to_outlast_its_idle_threshold_counts_too() -> None:
    evidence = agents_evidence(watched([(1.95, KV)], [(32.005, KV)]))
    params = evidence.params
    assert _on_link(evidence, "out").status is Status.FAIL
    begun = replace(evidence, params=params.model_copy(update={"idle_s": 0.2}))
    assert _on_link(begun, "out").status is Status.PASS


def test_where_the_machine_stood_still_the_reason_names_that_and_no_hole_in_the_counters() -> None:
    whole = agents_evidence(watched([(2.01, KV)], [(32.005, KV)]), told_s=AT_FULL_SPEED_S)
    assert whole.memory is not None
    times = [t_s for t_s in whole.memory.t_s if not TOLD_S < t_s < WOKEN_S]
    evidence = replace(whole, memory=MemorySeries("made", times, [0] * len(times)))
    for row in (_on_link(evidence, "out"), *judge_moves(evidence)):
        assert row.status is Status.INCONCLUSIVE
        assert "the machine stood still" in row.reason


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_what_the_link_carries_at_rest_does_not_stand_for_bytes_that_stayed(share: float) -> None:
    rows = judged([(2.01, share * KV)], [(32.005, share * KV)])
    assert {row.status for row in rows.values()} == {Status.FAIL}
    assert [row.observed for row in rows.values()] == pytest.approx([share, share], abs=0.01)


def test_bytes_that_come_after_the_first_token_were_not_there_for_it() -> None:
    assert judged([(2.01, KV)], [(32.07, KV)])["in"].status is Status.FAIL


def test_bytes_that_leave_when_the_sleep_is_nearly_over_made_room_for_nobody() -> None:
    assert judged([(31.0, KV)], [(32.005, KV)])["out"].status is Status.FAIL


# How long a move takes

AT_FULL_SPEED_S = KV / RATE
BACK: Copies = [(32.002, KV)]


def moved(
    rate: float, *, told_s: float | None, out: Copies | None = None, back: Copies | None = None,
    times: Floats = MILLISECONDS,
) -> dict[str, Criterion]:  # fmt: skip
    link = watched(out or [(2.01, KV)], back or BACK, rate=rate, times=times)
    return {row.name: row for row in judge_moves(agents_evidence(link, told_s=told_s))}


def test_a_move_at_the_links_speed_takes_as_long_as_its_bytes() -> None:
    for row in moved(RATE, told_s=AT_FULL_SPEED_S).values():
        assert row.status is Status.PASS
        assert row.observed == pytest.approx(1.0, abs=0.005)


def test_a_slow_move_that_the_server_calls_fast_fails() -> None:
    for row in moved(RATE / 2, told_s=AT_FULL_SPEED_S).values():
        assert row.status is Status.FAIL
        assert row.observed == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.04, 0.92, 0.04)])
def test_a_pause_in_a_move_counts_though_its_bytes_went_at_full_speed(shares: tuple[float, ...]) -> None:
    parts = [(2.01 + 0.4 * number, share * KV) for number, share in enumerate(shares)]
    assert moved(RATE, told_s=AT_FULL_SPEED_S, out=parts)["swap_out_of_ceiling"].status is Status.FAIL


def test_what_a_server_says_against_itself_counts() -> None:
    for row in moved(RATE, told_s=AT_FULL_SPEED_S / 0.8).values():
        assert row.status is Status.FAIL
        assert row.observed == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("shares", "status"),
    [((0.8, 0.97), Status.INCONCLUSIVE), ((0.8, 0.9), Status.FAIL), ((0.97, 0.6, 0.5), Status.FAIL)],
)
def test_of_two_moves_one_that_was_held_up_does_not_decide(shares: tuple[float, float], status: Status) -> None:
    evidence = agents_evidence(replace(watched([(2.01, KV)], BACK), series=None), told_s=AT_FULL_SPEED_S)
    (sleep,) = evidence.sleeper.sleeps
    records = [SessionRecord(swap_s=AT_FULL_SPEED_S / share, restore_s=AT_FULL_SPEED_S / share) for share in shares]
    sleeps = tuple(replace(sleep, asleep=record, after=record) for record in records)
    for row in judge_moves(replace(evidence, sleeper=replace(evidence.sleeper, sleeps=sleeps))):
        assert row.status is status
        assert "an odd number of sleeps" in row.reason or status is Status.FAIL


def test_a_server_that_says_nothing_is_timed_by_the_counters() -> None:
    rows = moved(RATE, told_s=None).values()
    assert {row.status for row in rows} == {Status.PASS}
    assert all("unknown by the server's clock" in row.evidence for row in rows)


def test_a_servers_word_alone_is_no_evidence_for_it_but_against_it() -> None:
    link = replace(watched([(2.01, KV)], BACK), series=None, reason="this GPU has no counters")
    for row in judge_moves(agents_evidence(link, told_s=AT_FULL_SPEED_S)):
        assert row.status is Status.INCONCLUSIVE
        assert "nothing but the server times it: the link is not counted here: this GPU has no counters" in row.reason
    rows = judge_moves(agents_evidence(link, told_s=2 * AT_FULL_SPEED_S))
    assert {row.status for row in rows} == {Status.FAIL}


def test_a_move_that_never_was_has_no_speed() -> None:
    for row in moved(RATE, told_s=AT_FULL_SPEED_S, out=[(2.01, KV / 2)], back=[(32.002, KV / 2)]).values():
        assert row.status is Status.INCONCLUSIVE
        assert "did not carry the session's KV" in row.reason


def test_bytes_that_are_not_the_kv_stand_for_no_move() -> None:
    """Weights that stream at full speed while the KV trickles in: as many bytes, of something else."""
    row = moved(RATE, told_s=AT_FULL_SPEED_S, back=[(32.002, 1.5 * KV)])["restore_of_ceiling"]
    assert row.status is Status.INCONCLUSIVE
    assert "what was there beside the KV?" in row.reason


def test_counters_that_are_read_too_seldom_decide_nothing() -> None:
    """Fifteen milliseconds apart a move of twenty may have taken twice as long."""
    rows = moved(RATE, told_s=AT_FULL_SPEED_S, times=np.arange(0, 35, 0.015))
    assert rows["swap_out_of_ceiling"].status is Status.INCONCLUSIVE
    assert "between" in rows["swap_out_of_ceiling"].reason


def test_a_link_that_carries_less_at_rest_after_a_while_accuses_nobody() -> None:
    """The session leaves a second after it was told to, and until then the link is busier than in its last third."""
    busier = [(2.0, 0.02 * KV)]
    link = watched([*busier, (3.0, KV)], BACK)
    rows = {row.name: row for row in judge_moves(agents_evidence(link, told_s=AT_FULL_SPEED_S))}
    assert rows["swap_out_of_ceiling"].status is Status.PASS


def test_a_neighbour_on_the_link_leaves_it_open() -> None:
    """Half of the link is another's all the while: as many bytes as the KV pass in the time that it should take."""
    neighbour = [(1.5, 33 * RATE / 2)]
    link = watched([(2.01, KV), *neighbour], [*BACK, *neighbour], rate=RATE / 2)
    for row in judge_moves(agents_evidence(link, told_s=AT_FULL_SPEED_S)):
        assert row.status is Status.INCONCLUSIVE
        assert "who else uses it?" in row.reason


def test_a_decoy_at_full_speed_hides_no_trickle() -> None:
    trickle = [(2.5 + number / 10, KV / 150) for number in range(150)]
    decoys = [(2.01, KV), (25.0, KV / 2)]
    link = watched([*decoys, *trickle], BACK)
    row = judge_moves(agents_evidence(link, told_s=AT_FULL_SPEED_S))[0]
    assert row.status is Status.INCONCLUSIVE


def test_of_two_measurements_of_a_ceiling_the_faster_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"d2h": [55e9, 54e9], "h2d": [53.9e9, 55.3e9]}

    def measured(device: torch.device, *, direction: str) -> Ceiling:
        rate = rates[direction].pop(0)
        return replace(ceiling(direction, start_s=rate), bytes_per_s=rate)

    monkeypatch.setattr(agent_link, "measure_ceiling", measured)
    monkeypatch.setattr(agent_link, "find_uuid", lambda device: "GPU-none")
    with LinkWitness(torch.device("cuda")) as witness:
        calibrating = witness.evidence().ceilings
        witness.measure_again()
        found = witness.evidence().ceilings
    assert {name: ceiling.bytes_per_s for name, ceiling in found.items()} == {"out": 55e9, "in": 55.3e9}
    assert {name: ceiling.bytes_per_s for name, ceiling in calibrating.items()} == {"out": 55e9, "in": 53.9e9}
    assert [ceiling.start_s for ceiling in found.values()] == [first.start_s for first in calibrating.values()]


def test_on_a_device_that_is_full_by_then_the_first_measurement_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_link, "measure_ceiling", lambda device, *, direction: ceiling(direction, 0.0))
    monkeypatch.setattr(agent_link, "find_uuid", lambda device: "GPU-none")
    with LinkWitness(torch.device("cuda")) as witness:
        monkeypatch.setattr(agent_link, "measure_ceiling", full)
        witness.measure_again()
        assert {ceiling.bytes_per_s for ceiling in witness.evidence().ceilings.values()} == {RATE}


def full(*_: object, **__: object) -> Ceiling:
    raise torch.OutOfMemoryError


# Readings that are missing

AT_REST_GAP, AT_THE_COPY = (10.0, 10.2), (2.0, 2.2)
"""In the middle of the sleep, and around the copy off the device: as long as others keep readings waiting."""


def without(*gaps: tuple[float, float]) -> Floats:
    """Return when the counters are read if nobody gets to it in these gaps."""
    kept = MILLISECONDS
    for start_s, end_s in gaps:
        kept = kept[(kept <= start_s) | (kept >= end_s)]
    return kept


@pytest.mark.parametrize("gap", [AT_REST_GAP, AT_THE_COPY, (25.0, 25.2)])
def test_over_a_hole_the_counters_gain_what_passed_but_for_whole_wraps(gap: tuple[float, float]) -> None:
    row = _on_link(agents_evidence(watched([(2.01, KV)], BACK, times=without(gap))), "out")
    assert row.status is Status.PASS
    assert row.observed == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("gap", [AT_REST_GAP, AT_THE_COPY])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_behind_a_hole_too_few_bytes_are_neither_enough_nor_a_fault(gap: tuple[float, float], share: float) -> None:
    row = _on_link(agents_evidence(watched([(2.01, share * KV)], BACK, times=without(gap))), "out")
    assert row.status is Status.INCONCLUSIVE
    assert "readings are missing" in row.reason


def test_what_a_link_carries_at_rest_is_not_known_beside_a_hole_well_enough_to_accuse() -> None:
    others = [(31.0, KV)]
    row = _on_link(agents_evidence(watched([(2.01, KV), *others], BACK, times=without((25.0, 29.7)))), "out")
    assert row.status is Status.INCONCLUSIVE


def test_a_move_beside_a_hole_is_timed_and_one_inside_it_is_open() -> None:
    gaps = {AT_REST_GAP: "", AT_THE_COPY: "counters are not read more often", (2.02, 2.22): "readings are missing"}
    for gap, reason in gaps.items():
        row = moved(RATE, told_s=AT_FULL_SPEED_S, times=without(gap))["swap_out_of_ceiling"]
        assert row.status is (Status.INCONCLUSIVE if reason else Status.PASS)
        assert reason in row.reason


def test_a_slow_move_beside_a_hole_is_still_slow() -> None:
    rows = moved(RATE / 2, told_s=AT_FULL_SPEED_S, times=without(AT_REST_GAP))
    assert rows["swap_out_of_ceiling"].status is Status.FAIL


def test_a_sleep_of_which_all_was_counted_and_too_little_fails_whatever_another_one_hides() -> None:
    evidence = agents_evidence(watched([(2.01, 0.5 * KV)], BACK, times=MILLISECONDS))
    first = evidence.sleeper.sleeps[0]
    hidden = replace(first, told_s=20.0, last=replace(first.last, token_at_s=(19.7,)))
    both = replace(evidence, sleeper=replace(evidence.sleeper, sleeps=(first, hidden)))
    assert both.link is not None
    holed = watched([(2.01, 0.5 * KV)], BACK, times=without((21.0, 21.2)))
    assert _on_link(replace(both, link=holed), "out").status is Status.INCONCLUSIVE  # the hole lies in both
    later = replace(first, woken_s=18.0)
    apart = replace(evidence, sleeper=replace(evidence.sleeper, sleeps=(later, hidden)), link=holed)
    assert _on_link(apart, "out").status is Status.FAIL


def test_copies_that_calibrate_are_made_again_where_readings_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    series = [watched([], [], times=without((0.1, 0.25))).series, watched([], []).series]
    measured: list[str] = []

    class Sampler:
        source = "made"

        def __init__(self, uuid: str) -> None:
            assert uuid == "GPU-none"

        def __enter__(self) -> Sampler:
            return self

        def __exit__(self, *exc: object) -> None:
            pass

    def measure(device: torch.device, *, direction: str) -> Ceiling:
        measured.append(direction)
        return ceiling(direction, start_s={"d2h": 1.0, "h2d": 0.0}[direction])

    monkeypatch.setattr(agent_link, "CounterSampler", Sampler)
    monkeypatch.setattr(agent_link, "read_past", lambda sampler, end_s: series.pop(0))
    monkeypatch.setattr(agent_link, "measure_ceiling", measure)
    monkeypatch.setattr(agent_link, "find_uuid", lambda device: "GPU-none")
    with LinkWitness(torch.device("cuda")):
        assert measured == ["d2h", "h2d"] * 2
