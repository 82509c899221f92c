"""Systems that stream otherwise than ours: what nobody can know is left open, what cannot be fails, the rest passes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from djinn_checks.checks.conclude import conclude
from djinn_checks.checks.pcie.anatomy import ANATOMY
from djinn_checks.checks.pcie.criteria import judge_evidence
from djinn_checks.checks.pcie.evidence import PcieEvidence
from djinn_checks.checks.pcie.lean_pass import find_leanest_pass
from djinn_checks.faults.pcie.streams import make_encoding, make_in_place, with_run
from djinn_checks.faults.pcie.traffic import (
    BUDGET_BYTES,
    CEILING,
    CLAIMED_BYTES,
    END_S,
    FEW_WORDS,
    FULL_RATE,
    IN_PLACE,
    PASS_BYTES,
    PASSES,
    START_S,
    make_evidence,
    make_health,
    make_series,
)
from djinn_checks.instruments.counters import CounterSeries, build_series
from djinn_checks.outcome import Criterion, Outcome, Status, settle

FAIL, OPEN, PASS = Status.FAIL, Status.INCONCLUSIVE, Status.PASS


def judged(found: PcieEvidence) -> dict[str, Criterion]:
    rows = judge_evidence(found)
    told = conclude(ANATOMY, found, {"params": found.params.model_dump()})
    Outcome.from_dict(json.loads(json.dumps(told.to_dict())))  # does not contradict itself
    return {row.name: row for row in rows}


def failed(found: PcieEvidence) -> set[str]:
    return {name for name, row in judged(found).items() if row.status is FAIL}


def verdict(found: PcieEvidence) -> Status:
    return settle(judged(found).values())


@pytest.mark.parametrize("share", [0.03, 0.1, 0.3])
def test_data_on_their_way_back_fail_nobody(share: float) -> None:
    found = make_evidence(make_series(sent_data=share * CEILING))
    assert not failed(found)
    assert verdict(found) is OPEN
    rows = judged(found)
    assert "data went to the host meanwhile" in rows["claimed_vs_counted"].reason


def test_few_words_read_in_place_with_junk_sent_back_do_not_look_like_copies() -> None:
    rate = 0.654 * CEILING
    series = make_series(rate, request_bytes=FEW_WORDS, sent_data=0.1 * CEILING)
    found = make_evidence(series, claimed_bytes=CLAIMED_BYTES)
    assert verdict(found) is not PASS
    assert judged(found)["rx_of_ceiling"].status is not PASS


@pytest.mark.parametrize("request_bytes", [FEW_WORDS, IN_PLACE])
def test_where_the_law_is_not_proved_nobody_but_copies_passes(request_bytes: int) -> None:
    wire = FULL_RATE * (256 + 20) / 256
    found = make_evidence(make_series(wire * request_bytes / (request_bytes + 20), request_bytes=request_bytes))
    calibration = found.link.calibration
    assert calibration is not None
    unproved = replace(found, link=replace(found.link, calibration=replace(calibration, law_error=0.02)))
    for claimed in (None, CLAIMED_BYTES):
        assert verdict(replace(unproved, claimed_bytes=claimed)) is not PASS
    copies = make_evidence()
    by_ratio = replace(copies, link=replace(copies.link, calibration=replace(calibration, law_error=0.02)))
    assert verdict(by_ratio) is PASS


def test_a_full_wire_read_in_place_passes_and_one_that_is_a_little_slow_and_owns_up_fails() -> None:
    found = make_in_place()
    assert verdict(found) is PASS
    slow = make_series(0.8 * CEILING, request_bytes=IN_PLACE)
    claimed = int(0.8 * CEILING * (END_S - START_S))
    assert "rx_of_ceiling" in failed(replace(found, series=slow, claimed_bytes=claimed))
    assert "rx_of_ceiling" not in failed(
        replace(found, series=make_series(0.87 * CEILING, request_bytes=IN_PLACE), claimed_bytes=None)
    ), "it may be copies, with data sent back"


def alternating(share: float) -> PcieEvidence:
    """Half of the link is used. Every second pass gets a share of what the mean does, the others the rest."""
    rate, pass_s = FULL_RATE / 2, (END_S - START_S) / PASSES
    series = make_series(lambda t: rate * (share if int((t - START_S) / pass_s) % 2 else 2 - share) if t < END_S else 0)
    found = make_evidence(series, claimed_bytes=CLAIMED_BYTES // 2)
    return with_run(replace(found, weight_bytes=BUDGET_BYTES + PASS_BYTES // 2), predicted_bytes=PASS_BYTES // 2)


@pytest.mark.parametrize(("share", "status"), [(0.0, FAIL), (0.5, FAIL), (0.95, PASS), (1.0, PASS)])
def test_a_pass_that_is_answered_from_a_full_copy_is_seen_in_any_mean(share: float, status: Status) -> None:
    row = judged(alternating(share))["streams_the_model"]
    assert row.status is status
    if status is FAIL:
        assert "no more can have come in pass" in row.reason


@given(st.floats(0.2, 1.0), st.integers(0, 5))
def test_no_pass_is_said_to_have_got_less_than_it_did(share: float, seed: int) -> None:
    rate = share * FULL_RATE
    found = make_evidence(make_series(rate, jitter_s=4e-4, seed=seed))
    leanest = find_leanest_pass(found)
    assert leanest is not None
    assert leanest.most_bytes >= rate * (END_S - START_S) / PASSES * (1 - 1e-6)


@pytest.mark.parametrize(("keep_s", "pause_s", "period_s"), [(0.04, 0.006, 0.04), (0.1, 0.02, 0.1)])
def test_pauses_are_not_hidden_by_a_sampler_that_was_not_run(keep_s: float, pause_s: float, period_s: float) -> None:
    full = CEILING * 0.995

    def rate(t: float) -> float:
        return 0.0 if (t - START_S) % period_s < pause_s else full

    claimed = int(full * (END_S - START_S) * (1 - pause_s / period_s))
    dense = make_evidence(make_series(rate), claimed_bytes=claimed)
    assert verdict(dense) is FAIL
    starved = make_series(rate, keep=lambda t: thin(t, keep_s))
    assert verdict(replace(dense, series=dense.link.fit(starved))) is not PASS


def thin(times: Any, seconds: float) -> Any:
    """Keep readings so far apart during the run, and all of the others."""
    kept = (times < START_S) | (times > END_S)
    return kept | (np.arange(len(times)) % round(seconds / 0.001) == 0)


def slow_queries(series: CounterSeries, seconds: float) -> CounterSeries:
    """The same readings, each taken at the end of a query that took so long."""
    step = math.ceil(seconds / 0.001) + 1
    raw, chosen = series.raw, slice(step, None, step)
    inside = (raw.before_s >= START_S - 0.5) & (raw.before_s <= END_S + 0.3)
    pick = np.union1d(np.flatnonzero(~inside), np.flatnonzero(inside)[chosen])
    before = np.where(inside, raw.before_s - seconds, raw.before_s)[pick]
    return build_series(before, raw.after_s[pick], raw.rx[pick], raw.tx[pick], source="slow")


@given(st.floats(0.0025, 0.0048), st.floats(0.905, 0.995))
def test_a_full_link_does_not_fail_because_queries_take_long(query_s: float, share: float) -> None:
    rate = share * CEILING
    found = make_evidence(make_series(rate), claimed_bytes=int(rate * (END_S - START_S)))
    found = replace(found, series=found.link.fit(slow_queries(make_series(rate), query_s)))
    assert judged(found)["rx_of_ceiling"].status is not FAIL


def test_a_link_slower_than_the_papers_threshold_is_the_wrong_hardware_and_not_a_fail() -> None:
    found = make_evidence()
    params = found.params.model_copy(update={"threshold_mb_per_s": 60_000.0})
    row = judged(replace(found, params=params))["rx_above_threshold"]
    assert row.status is OPEN
    assert "give threshold_mb_per_s: below 50,000" in row.reason


def test_a_faster_link_than_any_today_is_measured_by_its_own_rate() -> None:
    top = 400e9
    series = make_series().over(1.11 * top)
    gap_s = 0.9 * 2**32 / (1.11 * top)
    times = np.concatenate([np.arange(0, 1, 0.001), np.arange(1 + 1.2 * gap_s, 2, 0.001)])
    sums = (top * times).astype(np.int64) % 2**32
    fast = build_series(times, times, sums, sums, source="made").over(1.11 * top)
    assert series.holes == ()
    assert any(start < 1.0 < end for start, end in fast.holes)


@pytest.mark.parametrize("since_s", [START_S - 0.5, START_S + 0.6])
def test_a_link_that_trained_down_is_not_the_systems_fault_whenever_it_did(since_s: float) -> None:
    found = make_evidence(make_series(FULL_RATE / 2), claimed_bytes=CLAIMED_BYTES // 2)
    health = make_health(generation=lambda t: 5 if t < since_s else 4)
    found = replace(found, link=replace(found.link, health=health))
    assert judged(found)["link_training"].status is OPEN
    assert "trained down" in judged(found)["link_training"].reason
    assert "rx_of_ceiling" not in failed(found)


def test_more_may_be_sent_than_the_way_there_carries_if_the_way_back_is_faster() -> None:
    found = make_evidence(make_series(0.2 * CEILING, sent_data=1.15 * CEILING), claimed_bytes=int(0.2 * CEILING * 12))
    assert judged(found)["counted_is_possible"].status is OPEN
    wide = replace(found, link=replace(found.link, back_bytes_per_s=1.2 * CEILING))
    assert judged(wide)["counted_is_possible"].status is PASS


@pytest.mark.parametrize("refreshed_ms", [2, 5, 10])
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_counters_that_are_renewed_seldom_count_nothing_impossible(refreshed_ms: int, shift: int) -> None:
    live = make_series()
    held = np.maximum((np.arange(len(live.t_s)) - shift) // refreshed_ms * refreshed_ms + shift, 0)
    raw = live.raw
    seldom = build_series(raw.before_s, raw.after_s, raw.rx[held], raw.tx[held], source="seldom")
    found = make_evidence()
    assert judged(replace(found, series=found.link.fit(seldom)))["counted_is_possible"].status is PASS


def test_a_small_model_leaves_open_whether_a_copy_of_it_lies_on_the_device() -> None:
    found = make_evidence()
    small = with_run(replace(found, weight_bytes=BUDGET_BYTES + 5 * 10**8), held_bytes=BUDGET_BYTES + 10**8)
    assert judged(small)["device_memory"].status is OPEN
    assert "a larger model" in judged(small)["device_memory"].reason


def test_rows_of_embeddings_that_are_picked_on_the_host_need_not_come() -> None:
    found = make_evidence()
    assert found.counted_per_pass is not None
    table = 10**9
    larger = replace(found, weight_bytes=BUDGET_BYTES + int(found.counted_per_pass) + table - 10**8)
    assert judged(larger)["streams_the_model"].status is FAIL
    row = judged(replace(larger, unrouted_bytes=table))["streams_the_model"]
    assert row.status is OPEN
    assert "rows of a table of embeddings" in row.reason


def test_more_than_all_weights_that_nobody_claims_are_somebodys_and_nobody_knows_whose() -> None:
    found = replace(make_evidence(), claimed_bytes=None)
    assert judged(found)["reads_are_used"].status is Status.SKIP
    row = judged(replace(found, used_bytes=PASS_BYTES // 2))["reads_are_used"]
    assert row.status is OPEN
    assert "give it one" in row.reason


@pytest.mark.parametrize("share", [1.005, 1.012, 1.016, 1.017, 1.03, 1.13, 1.5])
@pytest.mark.parametrize("hole_s", [0.089, 1.2])
def test_no_claim_passes_because_a_hole_hides_what_came(share: float, hole_s: float) -> None:
    rate = 0.9 * CEILING
    found = make_evidence(make_series(rate), claimed_bytes=int(share * rate * (END_S - START_S)))
    holed = make_series(rate, keep=lambda t: (t < START_S + 3) | (t > START_S + 3 + hole_s))
    dense = judged(found)["claimed_vs_counted"]
    blind = judged(replace(found, series=found.link.fit(holed)))["claimed_vs_counted"]
    assert blind.status in (dense.status, OPEN)
    if share > 1.3:
        assert blind.status is FAIL


@pytest.mark.parametrize("more", [1.02, 1.035])
def test_a_hole_takes_no_excuse_from_who_reads_more_than_is_claimed(more: float) -> None:
    rate = 0.93 * CEILING
    series = make_series(rate, request_bytes=IN_PLACE, keep=lambda t: (t < START_S + 3) | (t > START_S + 3.089))
    found = make_evidence(series, claimed_bytes=int(rate * (END_S - START_S) / more))
    assert judged(found)["claimed_vs_counted"].status is not FAIL


@pytest.mark.parametrize("seed", range(4))
def test_a_steady_link_does_not_fail_because_some_queries_take_longer_than_others(seed: int) -> None:
    draw, live = np.random.default_rng(seed), make_series(0.995 * CEILING)
    inside = (live.t_s >= START_S - 0.5) & (live.t_s <= END_S + 0.3)
    pick = np.union1d(np.flatnonzero(~inside), np.flatnonzero(inside)[7:-7:7])
    took = np.where(inside, np.where(draw.random(len(live.t_s)) < 1 / 60, 0.0058, 0.0045), 0.0)[pick]
    at = draw.random(len(pick))
    before, after = live.t_s[pick] - at * took, live.t_s[pick] + (1 - at) * took
    slow = build_series(before, after, live.raw.rx[pick], live.raw.tx[pick], source="slow")
    found = make_evidence(live)
    assert judged(replace(found, series=found.link.fit(slow)))["rx_of_ceiling"].status is not FAIL


def test_a_coder_whose_whole_code_fits_beside_its_budget_is_left_open() -> None:
    found = make_encoding()
    assert judged(found)["device_memory"].status is PASS
    roomy = with_run(replace(found, budget_bytes=8 * 10**9), held_bytes=88 * 10**8)
    assert judged(roomy)["device_memory"].status is OPEN


def test_where_nothing_was_counted_no_row_says_that_evidence_was_lost() -> None:
    found = make_evidence()
    bare = replace(found, series=None, link=replace(found.link, calibration=None, reasons=("no counters here",)))
    assert "no counters here" in judged(bare)["time_per_pass_vs_limit"].reason


def test_a_hole_does_not_let_the_time_of_a_pass_rest_on_the_plan_alone() -> None:
    found = make_evidence(make_series(0.5 * CEILING, keep=lambda t: (t < START_S + 3) | (t > START_S + 3.089)))
    assert judged(found)["time_per_pass_vs_limit"].status is FAIL
