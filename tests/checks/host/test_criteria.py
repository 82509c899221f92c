"""A host is passed if everything holds, what is wrong is caught by its own row, and no evidence is no pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from djinn_checks.checks.host.evidence import Expectation
from djinn_checks.checks.host.expectation import expect_figures
from djinn_checks.checks.host.figures import NAMES, list_figures
from djinn_checks.checks.host.link_criteria import payload_limit
from djinn_checks.checks.host.recording import _read_readings, _write_readings, load_recording, save_recording
from djinn_checks.errors import OutcomeError, ParamsError
from djinn_checks.faults.base import Fault, is_caught
from djinn_checks.faults.host.catalog import FAULTS, judge_made
from djinn_checks.faults.host.made import MadeHost, make_evidence, name_link
from djinn_checks.instruments.counters import WRAP, build_series
from djinn_checks.outcome import Outcome, Status
from djinn_checks.params import HostParams

CPU = torch.device("cpu")
MADE = [fault for fault in FAULTS.values() if not fault.name.startswith("stand_in")]


@pytest.mark.parametrize("links", [1, 2, 8])
def test_a_host_on_which_everything_holds_is_passed_whatever_its_number_of_gpus(links: int) -> None:
    outcome = judge_made(make_evidence(MadeHost(links=links)))
    assert outcome.status is Status.PASS
    undecided = {row.name for row in outcome.criteria if row.status is Status.SKIP}
    lacking = {name for name in undecided if "no figure is expected" in outcome.criterion(name).reason}
    others = {"sharing_explained", "far_as_expected"} | (
        {"alone_like_others", "peer_as_expected"} if links == 1 else set()
    )
    assert undecided - lacking == others
    assert Outcome.from_dict(outcome.to_dict()) == outcome


@pytest.mark.parametrize("fault", MADE, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught_by_the_row_that_was_named(fault: Fault) -> None:
    outcome = fault.run(CPU)
    assert is_caught(fault, outcome), [(row.name, row.reason) for row in outcome.criteria if row.status != "PASS"]
    assert Outcome.from_dict(outcome.to_dict()) == outcome


@settings(max_examples=30)
@given(start_s=st.floats(0.0, 1.5))
def test_readings_that_a_busy_machine_keeps_waiting_accuse_no_link(start_s: float) -> None:
    outcome = judge_made(make_evidence(MadeHost(silent_s=(start_s, start_s + 0.03))))
    for name in ("counted_vs_copied", "wire_ratio"):
        assert outcome.criterion(name).status is Status.PASS, outcome.criterion(name).reason


def test_copies_of_two_stages_between_two_readings_are_nobodys() -> None:
    slow = {0: 0.01, 1: 0.01}  # the counters of a fast link would have wrapped meanwhile
    for end_s, status in ((0.44, Status.PASS), (0.47, Status.INCONCLUSIVE)):
        outcome = judge_made(make_evidence(MadeHost(links=1, rates=slow, silent_s=(0.38, end_s))))
        assert outcome.criterion("counted_vs_copied").status is status, end_s


def test_shares_are_told_and_not_judged_until_something_is_expected() -> None:
    evidence = make_evidence(MadeHost(shares=dict.fromkeys(("h2d", "d2h", "both"), 0.6)))
    row = judge_made(evidence).criterion("together_as_expected")
    assert row.status is Status.SKIP
    assert "together_h2d 0.600" in row.reason
    expected = Expectation(figures={"together_h2d": 0.9}, source="the parameters")
    outcome = judge_made(replace(evidence, expected=expected))
    assert outcome.criterion("together_as_expected").status is Status.FAIL
    assert outcome.status is Status.FAIL


def test_an_expected_figure_that_was_not_measured_is_no_pass() -> None:
    expected = Expectation(figures={"far_h2d": 0.8}, source="the parameters")
    outcome = judge_made(make_evidence(expected=expected))
    assert outcome.criterion("far_as_expected").status is Status.INCONCLUSIVE
    assert outcome.status is Status.INCONCLUSIVE


def test_an_earlier_outcome_of_the_same_type_is_expected_and_of_another_refused(tmp_path: Path) -> None:
    file = judge_made(make_evidence()).save(tmp_path / "earlier.json")
    params = HostParams.create(against=str(file), expect={"peer": 200.0})
    expected = expect_figures(params, make_evidence())
    assert expected.figures == {**list_figures(make_evidence()), "peer": 200.0}
    assert set(expected.figures) <= set(NAMES)
    outcome = judge_made(make_evidence(params=params, expected=expected))
    assert outcome.status is Status.PASS
    assert outcome.criterion("sum_as_expected").observed == pytest.approx(1.0)
    with pytest.raises(ParamsError, match="another type of host, 2 x NVIDIA made to measure"):
        expect_figures(params, make_evidence(MadeHost(links=3)))


def test_without_counters_nothing_is_passed() -> None:
    evidence = make_evidence()
    blind = replace(
        evidence,
        seen=tuple(replace(link, series=None, why_not_counted="NVML: not supported") for link in evidence.seen),
    )
    outcome = judge_made(blind)
    assert outcome.status is Status.INCONCLUSIVE
    assert "not supported" in outcome.criterion("counters_complete").reason


def test_of_two_links_the_faster_is_the_measure() -> None:
    row = judge_made(make_evidence(MadeHost(rates={1: 0.9}))).criterion("alone_like_others")
    assert row.status is Status.FAIL
    assert row.observed == pytest.approx(0.9)
    assert name_link(1) in row.reason


def test_gpus_that_are_hidden_leave_the_host_undecided() -> None:
    evidence = make_evidence()
    plan = replace(evidence.plan, left_out={"GPU-hidden": "CUDA_VISIBLE_DEVICES=0,1 hides it"})
    outcome = judge_made(replace(evidence, plan=plan))
    assert outcome.status is Status.INCONCLUSIVE
    assert "CUDA_VISIBLE_DEVICES" in outcome.criterion("whole_host").reason


def test_an_outcome_that_says_otherwise_than_its_measurements_is_refused() -> None:
    plain = judge_made(make_evidence()).to_dict()
    plain["params"] = HostParams.create().model_dump()
    Outcome.from_dict(plain)
    for row in plain["criteria"]:
        if row["name"] == "duplex":
            row["observed"] = 1.9
    with pytest.raises(OutcomeError, match="row duplex says"):
        Outcome.from_dict(plain)
    plain["criteria"] = [row for row in plain["criteria"] if row["name"] != "duplex"]
    with pytest.raises(OutcomeError, match="row duplex is missing"):
        Outcome.from_dict(plain)


def test_the_payload_of_a_link_is_what_its_lanes_carry_less_what_packets_cost() -> None:
    assert payload_limit(5, 16) == pytest.approx(58.4e9, rel=0.002)
    assert payload_limit(3, 16) == pytest.approx(14.6e9, rel=0.002)
    assert payload_limit(None, 16) is None
    assert payload_limit(6, 16) is None


def test_a_recording_is_judged_as_the_run_was(tmp_path: Path) -> None:
    evidence = make_evidence(MadeHost(rates={1: 0.9}))
    save_recording(evidence, tmp_path / "host.samples.json.gz")
    params = HostParams.create(recording=str(tmp_path / "host.samples.json.gz"))
    again = load_recording(params)
    rows = [(row.name, row.status) for row in judge_made(again).criteria]
    assert rows == [(row.name, row.status) for row in judge_made(evidence).criteria]
    assert again.subject == "replay"


@given(st.lists(st.integers(0, WRAP - 1), min_size=2, max_size=20))
def test_readings_come_back_from_a_recording_whatever_wraps(values: list[int]) -> None:
    raw = np.array(values, dtype=np.int64)
    times = np.asarray(5.0 + 0.001 * np.arange(len(raw)), dtype=np.float64)
    after = np.asarray(times + 1e-4, dtype=np.float64)
    series = build_series(times, after, raw, raw[::-1].copy(), source="made")
    again = _read_readings(_write_readings(series))
    assert again.raw.rx.tolist() == raw.tolist()
    assert again.raw.tx.tolist() == raw[::-1].tolist()
    assert np.allclose(again.t_s, series.t_s, atol=1e-6)
