"""Each criterion of the PCIe check holds, fails or stays open for its own reason, on traffic made to measure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from djinn_checks.checks.pcie.criteria import judge_evidence
from djinn_checks.checks.pcie.evidence import REPLAY, PcieEvidence
from djinn_checks.checks.pcie.measurements import gather_measurements, summarize
from djinn_checks.faults.pcie.traffic import (
    CEILING,
    CLAIMED_BYTES,
    END_S,
    FULL_RATE,
    PASS_BYTES,
    START_S,
    make_evidence,
    make_series,
)
from djinn_checks.instruments.counters import build_series
from djinn_checks.outcome import Criterion, Status, settle
from djinn_checks.params import PcieParams


def judged(found: PcieEvidence) -> dict[str, Criterion]:
    rows = judge_evidence(found)
    gather_measurements(found)  # whatever was found can be written down
    summarize(found, rows, settle(rows))
    return {row.name: row for row in rows}


def statuses(found: PcieEvidence) -> dict[str, Status]:
    return {name: row.status for name, row in judged(found).items()}


def failed(found: PcieEvidence) -> set[str]:
    return {name for name, status in statuses(found).items() if status is Status.FAIL}


def open_rows(found: PcieEvidence) -> set[str]:
    return {name for name, status in statuses(found).items() if status is Status.INCONCLUSIVE}


def test_a_full_link_passes_every_criterion() -> None:
    found = statuses(make_evidence())
    not_asked = {"vram_limit", "weights_decoded"}
    assert {status for name, status in found.items() if name not in not_asked} == {Status.PASS}
    assert {found[name] for name in not_asked} == {Status.SKIP}


def test_bursts_that_keep_the_mean_above_the_threshold_fail_by_the_ceiling() -> None:
    bursts = make_series(lambda t: CEILING if t % 0.01 < 0.005 else 0.0)
    found = failed(make_evidence(bursts, claimed_bytes=CLAIMED_BYTES // 2))
    assert "rx_of_ceiling" in found
    assert "rx_above_threshold" not in found


def test_a_slow_link_fails_the_papers_threshold() -> None:
    assert {"rx_above_threshold", "rx_of_ceiling"} <= failed(make_evidence(make_series(8e9)))


def test_a_system_that_moves_nothing_and_claims_all_is_caught_by_what_was_counted() -> None:
    found = failed(make_evidence(make_series(0.0)))
    assert {"rx_above_threshold", "claimed_vs_counted", "streams_the_model", "time_per_pass_vs_limit"} <= found


@pytest.mark.parametrize(("factor", "status"), [(1.009, Status.PASS), (1.02, Status.FAIL), (2.0, Status.FAIL)])
def test_a_claim_must_lie_within_one_percent_of_the_count(factor: float, status: Status) -> None:
    assert statuses(make_evidence(claimed_bytes=int(CLAIMED_BYTES * factor)))["claimed_vs_counted"] is status


@pytest.mark.parametrize(
    ("more_per_s", "status"),
    [(0.4e9, Status.PASS), (0.7e9, Status.INCONCLUSIVE), (2.5e9, Status.INCONCLUSIVE), (2.7e9, Status.FAIL)],
)
def test_what_waiting_streams_may_have_read_beside_the_claim_is_left_open(more_per_s: float, status: Status) -> None:
    found = make_evidence()
    assert found.counted_bytes is not None
    found = replace(found, claimed_bytes=int(found.counted_bytes - more_per_s * found.duration_s))
    row = judged(found)["claimed_vs_counted"]
    assert row.status is status
    assert ("three streams and more wait" in row.reason) == (status is Status.INCONCLUSIVE)


@pytest.mark.parametrize(("recorded", "status"), [(True, Status.INCONCLUSIVE), (False, Status.FAIL)])
def test_what_a_run_left_open_is_left_open_by_its_readings_too(recorded: bool, status: Status) -> None:
    found = make_evidence()
    assert found.counted_bytes is not None
    link = replace(found.link, subject=REPLAY, recorded=recorded)
    found = replace(found, link=link, claimed_bytes=int(0.98 * found.counted_bytes))
    assert judged(found)["claimed_vs_counted"].status is status


@pytest.mark.parametrize("rate", [1e6, 50e6, 400e6])
def test_a_system_that_streams_and_claims_nothing_claims_what_was_counted(rate: float) -> None:
    found = judged(make_evidence(make_series(rate), claimed_bytes=0))
    assert found["claimed_vs_counted"].status is Status.PASS


def test_more_resident_than_the_budget_allows_is_seen_though_the_plan_admits_it() -> None:
    found = make_evidence(make_series(0.5 * CEILING), claimed_bytes=CLAIMED_BYTES // 2)
    assert found.run is not None
    found = replace(found, run=replace(found.run, predicted_bytes=PASS_BYTES // 2))
    assert "streams_the_model" in failed(found)


def test_experts_that_no_token_was_routed_to_need_not_come_and_who_leaves_out_more_fails() -> None:
    found = make_evidence()
    assert found.counted_per_pass is not None
    more = replace(found, weight_bytes=(found.budget_bytes or 0) + int(1.5 * found.counted_per_pass))
    for share, status in ((0.0, Status.FAIL), (0.4, Status.FAIL), (0.55, Status.INCONCLUSIVE)):
        row = judged(replace(more, unrouted_bytes=int(share * found.counted_per_pass)))["streams_the_model"]
        assert row.status is status
        assert ("not routed to" in row.reason) is (status is Status.INCONCLUSIVE)


def test_a_plan_that_is_larger_than_what_was_counted_does_not_bring_a_system_nearer_to_the_limit() -> None:
    found = make_evidence(make_series(0.5 * CEILING))
    assert found.limit_ratio == pytest.approx(0.5, rel=0.01)


def test_a_run_shorter_than_the_papers_stays_open_when_it_holds_and_fails_when_it_does_not() -> None:
    short = make_evidence(end_s=START_S + 5)
    assert statuses(short)["rx_above_threshold"] is Status.INCONCLUSIVE
    assert "rx_above_threshold" in failed(make_evidence(make_series(1e9), end_s=START_S + 5))


def test_without_counters_every_claim_about_the_link_is_open() -> None:
    found = make_evidence()
    found = replace(found, series=None, link=replace(found.link, calibration=None, reasons=("field: not supported",)))
    rows = judged(found)
    assert not failed(found)
    assert {"rx_above_threshold", "rx_of_ceiling", "claimed_vs_counted", "streams_the_model"} <= open_rows(found)
    assert "not supported" in rows["counters_complete"].reason


def test_a_sampler_that_dies_half_way_leaves_the_claims_open() -> None:
    assert {"counters_complete", "rx_above_threshold", "rx_of_ceiling"} <= open_rows(
        make_evidence(make_series(end_s=START_S + 6))
    )
    assert not failed(make_evidence(make_series(end_s=START_S + 6)))


def test_a_link_that_rests_is_told_apart_from_one_that_is_slow() -> None:
    def in_bursts(slow: float) -> str:
        rate = make_series(lambda t: slow * FULL_RATE if (t - START_S) % 1 < 0.1 else FULL_RATE)
        return judged(make_evidence(rate))["rx_of_ceiling"].reason

    assert "got 0.0% of the ceiling at the least and 0.0% in the median, for up to 100 ms" in in_bursts(0.0)
    assert "got 79.6% of the ceiling at the least and 79.6% in the median, for up to 100 ms" in in_bursts(0.8)


def test_a_short_hole_costs_its_windows_and_not_the_verdict() -> None:
    found = judged(make_evidence(make_series(keep=lambda t: (t < START_S + 3) | (t > START_S + 3.1))))
    assert found["rx_of_ceiling"].status is Status.PASS
    assert found["rx_of_ceiling"].observed == pytest.approx(1 - 6 / 600, abs=2 / 600)
    assert found["claimed_vs_counted"].status is Status.PASS, "whatever passed in it is within the tolerance"


def test_a_hole_in_which_much_may_have_passed_leaves_the_claim_open() -> None:
    found = judged(make_evidence(make_series(keep=lambda t: (t < START_S + 3) | (t > START_S + 3.4))))
    assert found["claimed_vs_counted"].status is Status.INCONCLUSIVE
    assert "for holes in the evidence" in found["claimed_vs_counted"].evidence


def test_little_that_is_claimed_and_did_not_come_is_seen() -> None:
    capacity = CEILING * (END_S - START_S)
    found = judged(make_evidence(make_series(1e6), claimed_bytes=int(0.0099 * capacity)))
    assert found["claimed_vs_counted"].status is Status.FAIL


def test_a_counter_that_freezes_leaves_the_claims_open() -> None:
    whole = make_series()
    stopped = np.minimum(np.arange(len(whole.t_s)), int(np.searchsorted(whole.t_s, START_S + 4)))
    raw = whole.rx_bytes[stopped]
    found = make_evidence(build_series(whole.t_s, whole.t_s, raw % 2**32, raw % 2**32, source="field"))
    assert {"counters_complete", "rx_above_threshold", "rx_of_ceiling"} <= open_rows(found)
    assert not failed(found)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("calibration", {"calibration": {"residual": 0.02}}),
        ("link_quiet", {"calibration": {"idle_bytes_per_s": 0.1 * CEILING}}),
        ("ceiling_verified", {"after": {"verified": False}}),
        ("ceiling_steady", {"after": {"bytes_per_s": 0.8 * CEILING}}),
        ("ceiling_undisturbed", {"after": {"copied_bytes": int(0.8 * CEILING * 0.8)}}),
    ],
)
def test_an_instrument_that_cannot_be_trusted_decides_nothing(name: str, spoil: dict[str, Any]) -> None:
    found = make_evidence(make_series(8e9))
    link = found.link
    assert link.calibration is not None
    assert link.ceiling_after is not None
    link = replace(
        link,
        calibration=replace(link.calibration, **spoil.get("calibration", {})),
        ceiling_after=replace(link.ceiling_after, **spoil.get("after", {})),
    )
    found = replace(found, link=link)
    rows = judged(found)
    assert rows[name].status is Status.INCONCLUSIVE
    assert rows["rx_above_threshold"].status is Status.INCONCLUSIVE
    assert name in rows["rx_above_threshold"].reason
    assert not failed(found)


def test_readings_that_are_coarser_than_the_windows_decide_nothing() -> None:
    found = make_evidence()
    fine = found.series
    assert fine is not None
    every = slice(None, None, 41)
    coarse = build_series(fine.t_s[every], fine.t_s[every], fine.rx_bytes[every], fine.tx_bytes[every],
                          source="throughput", wraps=False)  # fmt: skip
    rows = judged(replace(found, series=coarse))
    assert rows["counters_fine_enough"].status is Status.INCONCLUSIVE
    assert "window_ms: 49" in rows["counters_fine_enough"].reason
    assert rows["rx_of_ceiling"].status is Status.INCONCLUSIVE


def test_more_device_memory_than_the_limit_fails_by_it() -> None:
    limited = PcieParams.create(vram_limit_gb=3.9)
    assert failed(make_evidence(params=limited)) == {"vram_limit"}
    assert not failed(make_evidence(params=PcieParams.create(vram_limit_gb=4.1)))


def test_a_second_copy_of_the_weights_on_the_host_is_shown() -> None:
    found = make_evidence()
    assert found.run is not None
    found = replace(found, run=replace(found.run, host_growth_bytes=2 * PASS_BYTES))
    rows = judged(found)
    assert rows["host_memory"].status is Status.FAIL
    assert not rows["host_memory"].required
