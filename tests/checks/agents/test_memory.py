"""A session's KV has left if memory fell by it, to what it is without the session; a cache beside it is no KV.

Levels in units of the session's KV: the server's own, the KV, and what else comes and goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch

from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.memory import UNREAD, Fall
from djinn_checks.checks.agents.promptness_criteria import judge_promptness
from djinn_checks.checks.agents.reply import SessionRecord
from djinn_checks.checks.agents.sleeper_criteria import _bytes_equal, _digest, _left_device, _returned
from djinn_checks.instruments.server_memory import MemorySeries
from djinn_checks.outcome import Criterion, Status
from djinn_checks.units import MB
from tests.checks.agents.made_evidence import (
    ANSWERED_S,
    KV,
    OPENED_S,
    SETTLED_S,
    TOLD_S,
    WOKEN_S,
    make_one_sleep,
    make_reference,
)

OWN = 5.0
"""What the server has without any session."""


def levels(opened: float, before: float, asleep: float, after: float, closed: float) -> AgentsEvidence:
    """Make the evidence of memory that stands at these levels, in KVs beyond the server's own."""

    def used(t_s: float) -> int:
        steps = ((OPENED_S, opened), (TOLD_S + 0.1, before), (WOKEN_S, asleep), (SETTLED_S + 0.05, after))
        return round(KV * (OWN + next((level for until_s, level in steps if t_s < until_s), closed)))

    return make_one_sleep(used)


def freed(evidence: AgentsEvidence) -> Criterion:
    return next(row for row in judge_promptness(evidence) if row.name == "closing_frees")


HONEST: Mapping[str, AgentsEvidence] = {
    "gives everything back": levels(0, 1, 0, 1, 0),
    "has a cache that its first sleep empties": levels(0, 2.5, 0, 1, 0),
    "has a cache that closing does not empty": levels(0.6, 1.6, 0.6, 1.6, 0.6),
    "fills again what a sleep has emptied": levels(0.1, 1.1, 0, 1.1, 0.1),
    "grows a little of its own accord": levels(0, 1.1, 0.1, 1.1, 0.1),
}


@pytest.mark.parametrize("who", HONEST)
def test_a_server_that_gives_the_kv_back_passes_whatever_its_caches_do(who: str) -> None:
    assert _left_device(HONEST[who]).status is Status.PASS
    assert freed(HONEST[who]).status is Status.PASS


@pytest.mark.parametrize(
    ("who", "evidence"),
    [
        ("keeps it", levels(0, 1, 1, 1, 0)),
        ("keeps it until closing, and frees as much of a cache", levels(0, 2, 1, 2, 0)),
        ("keeps it for good, and frees as much of a cache", levels(0, 2, 1, 2, 1)),
        ("never gives anything back", levels(1, 1, 1, 1, 1)),
    ],
)
def test_a_kv_that_stays_has_not_left_though_as_much_of_other_memory_was_freed(
    who: str, evidence: AgentsEvidence
) -> None:
    assert _left_device(evidence).status is Status.FAIL, who


@pytest.mark.parametrize("closed", [1.0, 1.2])
def test_a_closed_sessions_kv_that_stays_is_seen_though_as_much_of_other_memory_was_freed(closed: float) -> None:
    assert freed(levels(0, 1, 0, 2.2, closed)).status is Status.FAIL


@pytest.mark.parametrize(("device", "is_said"), [("cpu", True), ("cuda", False)])
def test_where_sleeping_kv_may_lie_on_a_cpu_is_said(device: str, is_said: bool) -> None:
    row = _left_device(replace(levels(0, 1, 1, 1, 0), device=torch.device(device)))
    assert row.status is Status.FAIL
    assert ("counts as the device's unless it was taken at the start" in row.reason) is is_said


def test_what_may_be_a_part_of_the_kv_or_a_cache_leaves_it_open() -> None:
    row = _left_device(levels(0, 1.5, 0.5, 1.5, 0))
    assert row.status is Status.INCONCLUSIVE
    assert "5 MB more was there than without the session" in row.reason
    assert freed(levels(0, 1, 0, 1.5, 0.5)).status is Status.INCONCLUSIVE


SEEN_MB: Mapping[str, tuple[Status, tuple[float, ...]]] = {
    "its heap keeps what forwards free": (Status.INCONCLUSIVE, (575.42, 591.69, 579.10, 593.80, 579.12)),
    "nothing stays that is freed": (Status.PASS, (479.72, 492.63, 480.04, 494.74, 480.06)),
    "nothing stays but a tenth of the KV": (Status.FAIL, (479.65, 492.30, 480.99, 494.43, 479.75)),
    "nothing stays but the KV": (Status.FAIL, (479.72, 492.46, 492.47, 494.58, 479.90)),
}
"""Recorded of our own server, while a dozen processes shared two cores."""


@pytest.mark.parametrize("who", SEEN_MB)
def test_a_server_that_gives_back_what_forwards_free_is_decided_on_a_busy_machine_too(who: str) -> None:
    decided, seen = SEEN_MB[who]
    made = levels(*(level * MB / KV - OWN for level in seen))
    assert _left_device(replace(made, reference=make_reference(119 * 98_304))).status is decided


def test_readings_that_end_before_the_closing_leave_open_what_needs_them_and_no_more() -> None:
    whole = HONEST["gives everything back"]
    assert whole.memory is not None
    count = sum(t_s < SETTLED_S for t_s in whole.memory.t_s)
    cut = MemorySeries("made", whole.memory.t_s[:count], whole.memory.used_bytes[:count])
    evidence = replace(whole, memory=cut)
    assert _left_device(evidence).reason == UNREAD
    assert freed(evidence).reason.startswith("the memory was not read around the closing")
    assert _returned(evidence).status is Status.PASS


@pytest.mark.parametrize(
    ("what", "unseen_s", "decided"),
    [("stalls", 0.0, Status.FAIL), ("stalls", 0.7, Status.INCONCLUSIVE), ("waits", 0.6, Status.INCONCLUSIVE)],
)
def test_a_session_that_left_before_its_answer_was_seen_was_idle_for_longer_than_the_clock_says(
    what: str, unseen_s: float, decided: Status
) -> None:
    """The machine stood still, or the server's threads waited, when the answer was complete, and ran on when the idle
    threshold had passed."""

    def used(t_s: float) -> int:
        return round(KV * (OWN + (OPENED_S <= t_s < ANSWERED_S)))

    spans = {what: (ANSWERED_S - unseen_s, ANSWERED_S)}
    assert _left_device(make_one_sleep(used, idle_s=0.5, **spans)).status is decided


def test_what_a_server_waited_to_send_an_answer_is_not_held_against_how_soon_it_left() -> None:
    """It was gone 0.42 s after it was told, and half a second is allowed."""

    def used(t_s: float) -> int:
        return round(KV * (OWN + (OPENED_S <= t_s < TOLD_S + 0.42)))

    made = make_one_sleep(used, idle_s=0.5, waits=(ANSWERED_S - 0.3, ANSWERED_S))
    left = next(row for row in judge_promptness(made) if row.name == "kv_left_soon")
    assert left.status is not Status.FAIL


def test_a_sleep_through_which_the_machine_stood_still_tells_nothing() -> None:
    """It was read just before, and once when it was over."""

    def used(t_s: float) -> int:
        return round(KV * (OWN + (OPENED_S <= t_s < SETTLED_S)))

    whole = make_one_sleep(used, stalls=(TOLD_S, WOKEN_S - 0.03))
    assert _left_device(whole).status is Status.INCONCLUSIVE
    assert _left_device(make_one_sleep(used)).status is Status.FAIL


@pytest.mark.parametrize("judge_record", [_bytes_equal, _digest])
def test_a_record_of_a_session_that_has_left_again_is_said_to_be_that(
    judge_record: Callable[[AgentsEvidence], Criterion],
) -> None:
    """What it holds of bytes and digests is the next sleep's, and whatever it says accuses nobody."""
    evidence = levels(0, 1, 0, 1, 0)
    run, said = evidence.sleeper, SessionRecord(swaps=1, swapped_bytes=1, restored_bytes=2, digest_out="a")
    sleep = replace(run.sleeps[0], asleep=said, after=replace(said, swaps=2, digest_in="b"))
    row = judge_record(replace(evidence, sleeper=replace(run, sleeps=(sleep,))))
    assert row.status is Status.INCONCLUSIVE
    assert "had left again" in row.reason


def test_what_closing_frees_is_not_to_be_seen_of_a_session_that_had_left_by_itself() -> None:
    """The server leaks what it closes, of which there is nothing any more; the pause before that was drawn out."""
    evidence = levels(0, 1, 0, 1, 0)
    run = evidence.sleeper
    late = replace(evidence, sleeper=replace(run, closed_s=run.sleeps[-1].reply.end_s + evidence.params.idle_s))
    assert freed(evidence).status is Status.PASS
    assert freed(late).status is Status.INCONCLUSIVE


@pytest.mark.parametrize("fell", [0.0, 0.5, 1.0, 20.0])
def test_a_kv_that_is_smaller_than_what_memory_moves_by_is_neither_passed_nor_failed(fell: float) -> None:
    """103 kB, as seen: an allocator gives so little back with the next page, or with none."""
    evidence = levels(0, fell, 0, fell, 0)
    small = replace(evidence, reference=replace(evidence.reference, kv_elements_per_token=103_000 // 400))
    rows = [_left_device(small), _returned(small), *judge_promptness(small)]
    found = {row.name: row for row in rows if row.name != "woke_at_once"}
    assert {row.status for row in found.values()} == {Status.INCONCLUSIVE}
    assert all(row.reason.startswith("the session's KV is 10") for row in found.values()), found


@pytest.mark.parametrize(("device", "own"), [("cpu", 2 * MB), ("cuda", 8 * MB)])
def test_a_kv_is_judged_from_the_size_on_that_memory_can_show(device: str, own: int) -> None:
    stays = Fall(fell_bytes=0, beyond_bytes=own)
    assert stays.share(own, 0.98, device) == (0.0, "")
    assert stays.share(own - 1, 0.98, device)[0] is None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("fell", "beyond", "share"), [(1.0, 0.0, 1.0), (0.9, 0.0, 0.9), (0.9, 2.0, 0.9), (1.4, 1.0, 0.0), (1.4, -3.0, 1.4)]
)
def test_both_the_fall_and_what_is_left_decide(fell: float, beyond: float, share: float, device: str) -> None:
    size = 10**9
    found, why = Fall(fell_bytes=int(fell * size), beyond_bytes=int(beyond * size)).share(size, 0.98, device)
    assert found == pytest.approx(share)
    assert why == ""
