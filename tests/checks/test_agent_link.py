"""What is counted on the link is the KV: neither chatter nor what comes later fills up what is missing.

And a move takes as long as its bytes are on the link, whatever the server says.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_checks.checks.agent_client import Reply, SessionRecord
from djinn_checks.checks.agent_criteria import _on_link
from djinn_checks.checks.agent_evidence import AgentsEvidence
from djinn_checks.checks.agent_link import LinkEvidence
from djinn_checks.checks.agent_reference import Reference
from djinn_checks.checks.agent_sleeper import Sleep, SleeperRun
from djinn_checks.checks.agent_speed import judge_moves
from djinn_checks.instruments.counters import Floats, build_series, load_trace
from djinn_checks.instruments.link_ceiling import Ceiling
from djinn_checks.outcome import Criterion, Status
from djinn_checks.params import AgentsParams

TRACES = Path(__file__).parents[1] / "data" / "traces"
KV = 1_000_000_000
"""Bytes, of 101 tokens whose last one has not been fed back."""
CHATTER = 20e6
"""Bytes per second of a link at rest, as counters that are read a thousand times a second see them."""
WIRE = {"rx": 1.08, "tx": 1.09}
RATE = 50e9
TOLD_S, WOKEN_S, FIRST_TOKEN_S = 2.0, 32.0, 32.06

MILLISECONDS = np.arange(0, 35, 1e-3)
"""When the counters are read."""

Copies = list[tuple[float, float]]
"""When each begins, and its bytes."""


def judged(out: Copies, back: Copies) -> dict[str, Criterion]:
    evidence = agents_evidence(watched(out, back))
    return {direction: _on_link(evidence, direction, "", direction) for direction in ("out", "in")}


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
        told_s=TOLD_S, woken_s=WOKEN_S, settled_s=34.0, tokens=101, before=None, asleep=record, after=record,
        reply=reply,
    )  # fmt: skip
    run = SleeperRun(
        first=reply, sleeps=(sleep,), hot=(), again=(), cold=(), hot_record=None, histories=((),), closed_s=34.0,
        gone_s=34.3,
    )  # fmt: skip
    reference = Reference(
        kv_elements_per_token=KV // 400, generated=(), nll_slept=(), nll_hot=(), repetition_slept=(), repetition_hot=()
    )
    return AgentsEvidence(
        params=AgentsParams.create(), device=torch.device("cuda"), kv_dtype=torch.float32, sleeper=run,
        reference=reference, crowd=None, memory=None, memory_reason="", link=link, pace=None, is_alive=None,
    )  # fmt: skip


def test_a_session_that_leaves_and_comes_back_counts_once_each_way() -> None:
    rows = judged([(2.01, KV)], [(32.005, KV)])
    assert {row.status for row in rows.values()} == {Status.PASS}
    assert [row.observed for row in rows.values()] == pytest.approx([1.0, 1.0], abs=0.01)


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


def moved(rate: float, *, told_s: float | None, out: Copies | None = None) -> dict[str, Criterion]:
    link = watched(out or [(2.01, KV)], [(32.002, KV)], rate=rate)
    rows = judge_moves(agents_evidence(link, told_s=told_s))
    return {row.name: row for row in rows}


def test_a_move_at_the_links_speed_takes_as_long_as_its_bytes() -> None:
    for row in moved(RATE, told_s=AT_FULL_SPEED_S).values():
        assert row.status is Status.PASS
        assert row.observed == pytest.approx(1.0, abs=0.005)


def test_a_slow_move_that_the_server_calls_fast_fails() -> None:
    for row in moved(RATE / 2, told_s=AT_FULL_SPEED_S).values():
        assert row.status is Status.FAIL
        assert row.observed == pytest.approx(0.5, abs=0.02)


def test_a_pause_in_a_move_counts_though_its_bytes_went_at_full_speed() -> None:
    halves = [(2.01, KV / 2), (2.05, KV / 2)]
    assert moved(RATE, told_s=AT_FULL_SPEED_S, out=halves)["swap_out_of_ceiling"].status is Status.FAIL


def test_what_a_server_says_against_itself_counts() -> None:
    for row in moved(RATE, told_s=AT_FULL_SPEED_S / 0.8).values():
        assert row.status is Status.FAIL
        assert row.observed == pytest.approx(0.8)


def test_a_server_that_says_nothing_is_timed_by_the_counters() -> None:
    rows = moved(RATE, told_s=None).values()
    assert {row.status for row in rows} == {Status.PASS}
    assert all("unknown by the server's clock" in row.evidence for row in rows)


def test_a_servers_word_alone_is_no_evidence() -> None:
    link = replace(watched([(2.01, KV)], [(32.002, KV)]), series=None, reason="this GPU has no counters")
    for row in judge_moves(agents_evidence(link, told_s=AT_FULL_SPEED_S)):
        assert row.status is Status.INCONCLUSIVE
        assert "only the server's own clock" in row.reason
        assert "this GPU has no counters" in row.reason


def test_a_move_that_never_was_has_no_speed() -> None:
    link = watched([(2.01, 0.5 * KV)], [(32.002, 0.5 * KV)])
    for row in judge_moves(agents_evidence(link, told_s=AT_FULL_SPEED_S)):
        assert row.status is Status.INCONCLUSIVE
        assert "did not carry the session's KV" in row.reason


@given(
    share=st.floats(0.1, 1.0),
    start_s=st.floats(2.0, 2.5),
    gaps=st.lists(st.floats(2e-4, 5e-3), min_size=20, max_size=20),
)
def test_the_time_found_is_never_longer_than_the_true_one_and_shorter_by_two_gaps_at_most(
    share: float, start_s: float, gaps: list[float]
) -> None:
    """Whenever the counters are read: nobody is called slower than he was. The calibration is off by what the link
    carries at rest, 0.4 % of the copy."""
    steps = np.resize(gaps, int(4 / min(gaps)))
    times = np.concatenate([[0.0], np.cumsum(steps)])
    times = times[: int(np.searchsorted(times, 3.5)) + 2]
    link = watched([(start_s, KV)], [], rate=share * RATE, times=times)
    found = link.seconds_to_move("out", KV, 1.9, 3.4, rest_bytes_per_s=CHATTER)
    true_s = KV / (share * RATE)
    assert found is not None
    assert 0.995 * true_s - 2 * max(gaps) * (1 - share) / 0.9 <= found <= 1.005 * true_s


def test_real_bursts_are_timed_with_their_pauses() -> None:
    """A recorded trace: copies of 256 MiB and 5 ms of rest behind each, half of the time at 55 GB/s."""
    truth = json.loads((TRACES / "truth.json").read_text())["bursty"]
    start_s, end_s, nbytes = truth["t_start_s"], truth["t_end_s"], truth["h2d_bytes"]
    known = replace(ceiling("h2d", start_s), end_s=end_s, copied_bytes=nbytes, bytes_per_s=55e9)
    link = LinkEvidence(ceilings={"in": known}, series=load_trace(TRACES / "bursty.csv.gz"))
    seconds = link.seconds_to_move("in", nbytes, start_s, end_s, rest_bytes_per_s=0.0)
    assert seconds == pytest.approx(end_s - start_s, rel=0.01)
