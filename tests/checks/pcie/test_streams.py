"""Streams in place and encoded are judged by what is true of them, on traffic made to measure."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from djinn_checks.checks.pcie.check import check_pcie
from djinn_checks.checks.pcie.criteria import judge_evidence
from djinn_checks.checks.pcie.evidence import PcieEvidence
from djinn_checks.checks.pcie.measurements import gather_measurements
from djinn_checks.faults.pcie.stream_defects import trains_down, wastes
from djinn_checks.faults.pcie.streams import make_encoding, make_in_place, with_run
from djinn_checks.faults.pcie.traffic import (
    CEILING,
    CLAIMED_BYTES,
    END_S,
    FEW_WORDS,
    FULL_RATE,
    IN_PLACE,
    START_S,
    make_evidence,
    make_health,
    make_series,
)
from djinn_checks.instruments.link_health import LinkHealth
from djinn_checks.outcome import Criterion, Outcome, Status
from djinn_checks.params import PcieParams

STREAMS = Path(__file__).parents[2] / "data" / "streams"


def judged(found: PcieEvidence) -> dict[str, Criterion]:
    return {row.name: row for row in judge_evidence(found)}


def with_link(found: PcieEvidence, **changed: Any) -> PcieEvidence:
    return replace(found, link=replace(found.link, **changed))


def uncalibrated_law(found: PcieEvidence) -> PcieEvidence:
    """The same on a machine where known copies are not counted right by the law."""
    assert found.link.calibration is not None
    return with_link(found, calibration=replace(found.link.calibration, law_error=0.02))


def test_kernels_that_read_in_place_pass_and_by_the_ratio_of_copies_they_are_left_open() -> None:
    found = make_in_place()
    rows = judged(found)
    assert {row.status for row in rows.values() if row.required} <= {Status.PASS, Status.SKIP}
    assert rows["wire_fullness"].observed == pytest.approx(0.996, abs=0.002)
    assert rows["rx_of_ceiling"].status is Status.PASS
    assert "kernels that read in place: 128 bytes" in rows["claimed_vs_counted"].evidence
    other = judged(uncalibrated_law(found))
    assert other["claimed_vs_counted"].status is Status.INCONCLUSIVE
    assert "it was not copies that read" in other["claimed_vs_counted"].reason
    assert "2.00% off by the law" in other["claimed_vs_counted"].evidence
    assert judged(uncalibrated_law(make_evidence()))["claimed_vs_counted"].status is Status.PASS
    twice = replace(make_evidence(), claimed_bytes=2 * CLAIMED_BYTES)
    assert judged(uncalibrated_law(twice))["claimed_vs_counted"].status is Status.FAIL
    assert other["requests_counted"].status is Status.SKIP


def test_an_encoder_may_be_faster_than_the_link_and_its_four_figures_are_kept_apart() -> None:
    found = make_encoding()
    rows = judged(found)
    assert {row.status for row in rows.values() if row.required} <= {Status.PASS, Status.SKIP}
    figures = gather_measurements(found)["figures"]
    assert figures["wire_of_ceiling"] == pytest.approx(0.995, abs=0.001)
    assert figures["claimed_of_counted"] == pytest.approx(1, abs=0.001)
    assert figures["weights_of_ceiling"] == pytest.approx(2.03, abs=0.01)
    assert figures["counted_of_least"] == pytest.approx(1.086, abs=0.002)
    assert "entropy of 8.5 GB" in rows["streams_the_model"].evidence


def test_a_rate_above_the_link_is_not_believed_unless_a_pass_was_seen_to_use_the_weights() -> None:
    rows = judged(make_encoding(seen=None))
    assert rows["weights_decoded"].status is Status.INCONCLUSIVE
    assert rows["weight_rate"].observed is None
    assert rows["weights_decoded"].required


def test_the_same_bytes_from_a_system_that_does_not_say_that_it_encodes_are_too_few() -> None:
    rows = judged(replace(make_encoding(), encodes=False, floor=None))
    assert rows["streams_the_model"].status is Status.FAIL
    assert rows["streams_the_model"].threshold == 9_900_000_000


def test_without_a_floor_an_encoder_is_left_open() -> None:
    rows = judged(replace(make_encoding(), floor=None))
    assert rows["streams_the_model"].status is Status.INCONCLUSIVE
    assert "entropy" in rows["streams_the_model"].reason


def test_a_budget_that_could_hold_all_encoded_weights_asks_for_no_bytes() -> None:
    found = replace(make_encoding(), budget_bytes=9 * 10**9)
    assert found.least_per_pass == 0
    assert judged(found)["streams_the_model"].status is Status.PASS
    assert gather_measurements(found)["figures"]["counted_of_least"] is None


def test_memory_beside_the_allocator_is_nobodys_until_it_is_known_whose() -> None:
    rows = judged(with_run(make_evidence(), beside_bytes=6 * 10**9))
    assert rows["device_memory"].status is Status.INCONCLUSIVE
    assert "another process" in rows["device_memory"].reason
    assert judged(with_run(make_evidence(), held_bytes=None))["device_memory"].status is Status.SKIP


def test_what_is_fetched_and_not_used_stands_in_the_figures() -> None:
    found = wastes(0.5)
    reader = gather_measurements(found)["reader"]
    assert reader is not None
    assert reader["wasted_bytes"] == pytest.approx((19.9e9 - 13e9) * 28, rel=0.01)
    assert "35% of what is claimed" in judged(found)["reads_are_used"].reason
    known = replace(found, used_bytes=9_950_000_000)
    told = gather_measurements(known)["reader"]
    assert told is not None
    assert told["wasted_bytes"] == pytest.approx(0.5 * (known.counted_bytes or 0), rel=0.01)
    assert judged(replace(wastes(0.2), used_bytes=9_950_000_000))["reads_are_used"].status is Status.FAIL


def test_a_wire_that_is_full_of_small_requests_is_said_beside_its_slow_windows() -> None:
    rate = CEILING * (276 / 256) / (52 / 32)
    found = make_evidence(make_series(rate, request_bytes=FEW_WORDS), claimed_bytes=int(rate * (END_S - START_S)))
    rows = judged(found)
    assert rows["rx_of_ceiling"].status is Status.FAIL
    assert "the wire itself is full, with kernels that read a few words" in rows["rx_of_ceiling"].reason
    assert rows["wire_fullness"].status is Status.PASS
    assert rows["claimed_vs_counted"].status is Status.PASS


@pytest.mark.parametrize(
    ("back", "status"), [(0.0, Status.PASS), (0.02, Status.INCONCLUSIVE), (0.2, Status.INCONCLUSIVE)]
)
def test_a_true_claim_beside_data_on_their_way_back_is_not_refuted(back: float, status: Status) -> None:
    found = make_evidence(make_series(FULL_RATE, sent_data=back * CEILING))
    row = judged(found)["claimed_vs_counted"]
    assert row.status is status
    assert status is Status.PASS or "data went to the host" in row.reason
    outside = judged(replace(found, claimed_bytes=int(1.1 * CLAIMED_BYTES)))["claimed_vs_counted"]
    assert outside.status is Status.FAIL


def test_a_link_that_trains_down_is_named_and_so_is_what_slowed_it() -> None:
    rows = judged(trains_down(0.5))
    assert rows["link_training"].status is Status.INCONCLUSIVE
    assert "link_training" in rows["rx_of_ceiling"].reason
    slow = make_evidence(make_series(0.5 * FULL_RATE), claimed_bytes=CLAIMED_BYTES // 2)
    rows = judged(with_link(slow, health=make_health(clock_reasons=0x48, replays_per_s=1.0)))
    assert rows["rx_of_ceiling"].status is Status.FAIL
    for said in ("clocks were slowed by hardware slowdown in 100% of them", "thermal slowdown", "12 replays"):
        assert said in rows["rx_of_ceiling"].reason


def test_an_idle_link_may_save_power() -> None:
    idle = make_evidence(make_series(0.0), claimed_bytes=0)
    rows = judged(with_link(idle, health=make_health(generation=lambda t: 5 if t < START_S + 3 else 1)))
    assert rows["link_training"].status is Status.SKIP
    assert rows["rx_above_threshold"].status is Status.FAIL, "and the system is still told that it streams nothing"


@pytest.mark.parametrize("health", [None, LinkHealth(())])
def test_a_gpu_that_tells_nothing_of_its_link_can_still_pass(health: LinkHealth | None) -> None:
    found = with_link(make_evidence(), health=health)
    rows = judged(found)
    assert rows["link_training"].status is Status.SKIP
    assert rows["link_replays"].status is Status.SKIP
    assert {row.status for row in rows.values() if row.required} == {Status.PASS, Status.SKIP}
    assert gather_measurements(found)["health"] is None


def test_fields_that_are_not_supported_are_unknown_and_not_zero() -> None:
    bare = LinkHealth(
        tuple(replace(sample, counts={}, generation=None, clock_reasons=None) for sample in make_health().samples)
    )
    found = with_link(make_evidence(), health=bare)
    health = gather_measurements(found)["health"]
    assert health is not None
    assert set(health["differences"].values()) == {None}
    assert judged(found)["link_replays"].status is Status.SKIP


def skip_readings(apart_s: float) -> Any:
    """Every second, so long passes without a reading."""
    return lambda t: ((t - START_S) % 1.0 >= apart_s) | (t < START_S) | (t > END_S)


def test_readings_23_ms_apart_are_no_hole_on_this_link_and_such_that_could_hide_a_wrap_are() -> None:
    in_place = {"request_bytes": IN_PLACE}
    rate = 0.9287 * CEILING
    fine = make_evidence(make_series(rate, keep=skip_readings(0.023), **in_place), claimed_bytes=int(12 * rate))
    assert fine.series is not None
    assert fine.series.holes == ()
    assert judged(fine)["claimed_vs_counted"].status is Status.PASS
    holed = make_evidence(make_series(rate, keep=skip_readings(0.07), **in_place))
    row = judged(holed)["counters_complete"]
    assert row.status is Status.INCONCLUSIVE
    assert "nobody asked, as the sampler was not run" in row.reason


def stalled(found: PcieEvidence, seconds: float) -> PcieEvidence:
    """The same with one query that took so long to answer."""
    series = found.series
    assert series is not None
    first = int(np.searchsorted(series.t_s, START_S + 5))
    last = int(np.searchsorted(series.t_s, START_S + 5 + seconds))
    keep = np.r_[: first + 1, last : len(series.t_s)]
    raw = series.raw
    before = raw.before_s[keep].copy()
    before[first + 1] = raw.before_s[first] + 0.001
    cut = type(raw)(before_s=before, after_s=raw.after_s[keep], rx=raw.rx[keep], tx=raw.tx[keep])
    return replace(found, series=found.link.fit(replace(series, raw=cut)), params=found.params)


def test_why_readings_stalled_is_said_as_far_as_it_can_be_known() -> None:
    def reason(found: PcieEvidence) -> str:
        return judged(stalled(found, 0.4))["counters_complete"].reason

    assert "while kernels read host memory in place" in reason(make_in_place())
    assert "somebody may have pinned memory" in reason(make_evidence())
    pinned = LinkHealth(tuple(replace(sample, pins=int(1e6 * sample.t_s)) for sample in make_health().samples))
    assert "were pinned on this machine" in reason(with_link(make_evidence(), health=pinned))


def replay(name: str) -> Outcome:
    return check_pcie(PcieParams.create(device="cpu", trace=str(STREAMS / f"{name}.csv.gz")))


@pytest.mark.parametrize(
    ("name", "reader", "weights_of_ceiling"),
    [
        ("in_place", "kernels that read in place: 128", 0.92),
        ("compressing", "copies: 255", None),
    ],
)
def test_recorded_streams_of_other_kinds_pass_every_row_about_claims_and_floors(
    name: str, reader: str, weights_of_ceiling: float | None
) -> None:
    outcome = replay(name)
    claims = ("counters_complete", "claimed_vs_counted", "streams_the_model", "reads_are_used", "wire_fullness")
    assert {outcome.criterion(row).status for row in claims} == {Status.PASS}
    assert outcome.criterion("claimed_vs_counted").observed == pytest.approx(0, abs=0.001), "the law, on a real link"
    assert outcome.measurements["reader"]["by_law"]
    assert outcome.measurements["reader"]["says"].startswith(reader)
    assert outcome.measurements["figures"]["weights_of_ceiling"] == pytest.approx(weights_of_ceiling, abs=0.01)


def test_a_recorded_reader_that_wastes_half_is_caught_though_each_of_its_readings_was_slow() -> None:
    outcome = replay("wasteful")
    assert outcome.criterion("claimed_vs_counted").observed == pytest.approx(0, abs=0.001)
    assert outcome.criterion("reads_are_used").status is Status.FAIL
    assert outcome.measurements["reader"]["wasted_bytes"] == pytest.approx(51e9, rel=0.01)
    assert outcome.criterion("rx_of_ceiling").status is Status.INCONCLUSIVE
    row = outcome.criterion("counters_complete")
    assert row.status is Status.INCONCLUSIVE
    assert "while kernels read host memory in place" in row.reason
    assert "give window_ms: 116" in row.reason


def test_a_recorded_code_that_is_smaller_than_its_entropy_is_none(tmp_path: Path) -> None:
    for name in ("copy_h2d.csv.gz", "compressing.csv.gz"):
        shutil.copy(STREAMS / name, tmp_path)
    truth = json.loads((STREAMS / "truth.json").read_text())
    truth["compressing"]["least_bytes"] = int(0.8 * truth["compressing"]["weight_bytes"])
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    outcome = check_pcie(PcieParams.create(device="cpu", trace=str(tmp_path / "compressing.csv.gz")))
    assert outcome.criterion("streams_the_model").status is Status.FAIL


@pytest.mark.parametrize(
    ("make", "more", "wanted"),
    [
        (make_in_place, 1.0136, (Status.PASS, Status.PASS)),
        (make_in_place, 1.08, (Status.FAIL, Status.FAIL)),
        (make_in_place, 0.985, (Status.INCONCLUSIVE, Status.INCONCLUSIVE)),  # as much may have come, if data went back
        (make_evidence, 1.0136, (Status.INCONCLUSIVE, Status.FAIL)),  # streams that wait may have read as much
        (make_evidence, 1.06, (Status.FAIL, Status.FAIL)),
    ],
)
def test_kernels_that_read_in_place_may_fetch_a_little_more_than_is_used_and_copies_may_not(
    make: Any, more: float, wanted: tuple[Status, Status]
) -> None:
    found = make()
    assert found.run is not None
    said = int(found.claimed_bytes / more)
    other = with_run(replace(found, claimed_bytes=said), predicted_bytes=said // len(found.run.pass_ends_s))
    rows = judged(other)
    assert (rows["claimed_vs_counted"].status, rows["predicted_vs_counted"].status) == wanted
    wasted = gather_measurements(other)["reader"]["wasted_bytes"]
    assert wasted == pytest.approx(max(0, found.claimed_bytes - said), abs=0.002 * found.claimed_bytes)
