"""Eleven forged outcomes and more: each is refused by name, or stands in docs/command-line.md as beyond reach."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from djinn_checks.errors import OutcomeError, ParamsError
from djinn_checks.outcome import Outcome, Status, judge, skip
from djinn_checks.outcome.contradictions import find_contradiction
from djinn_checks.suite.files import read_finished
from djinn_checks.suite.params_folder import read_suite
from tests.report import samples
from tests.suite.runs import write_params
from tests.whole import whole, whole_rows

ROOT = Path(__file__).parents[1]
REPORTS = sorted([*ROOT.glob("reports/**/*.outcome.json"), *ROOT.glob("tests/data/outcomes/*.json")])
FAILED = ROOT / "reports/h200-2026-11-27/pcie-accelerate.outcome.json"
PASSED = ROOT / "reports/h200-2026-11-27/logits.outcome.json"
PCIE = ROOT / "reports/h200-2026-11-27/pcie-ring.outcome.json"
AGENTS = ROOT / "reports/h200-2026-11-27/agents.outcome.json"
DOCS = (ROOT / "docs/command-line.md").read_text(encoding="utf-8")

Data = dict[str, Any]


def row(data: Data, name: str) -> Data:
    found: Data = next(row for row in data["criteria"] if row["name"] == name)
    return found


def read(file: Path) -> Data:
    data: Data = json.loads(file.read_text(encoding="utf-8"))
    return data


def refuse(data: Data) -> str:
    with pytest.raises(OutcomeError) as caught:
        Outcome.from_dict(data)
    return str(caught.value)


@pytest.mark.parametrize("file", REPORTS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_published_outcome_is_read_and_agrees_with_itself(file: Path) -> None:
    assert Outcome.load(file).to_dict()["criteria"]


@pytest.mark.parametrize("outcome", samples.every_status(), ids=lambda outcome: outcome.status.value)
def test_what_is_written_is_read_back(outcome: Outcome) -> None:
    assert Outcome.from_dict(json.loads(json.dumps(outcome.to_dict()))).to_dict() == outcome.to_dict()


# 1
def test_an_edited_status_is_refused() -> None:
    said = refuse(read(FAILED) | {"status": "PASS"})
    assert "its status is PASS, and FAIL follows from its rows, by rx_above_threshold" in said


# 2
def test_an_edited_row_is_refused_by_what_it_compares_and_by_what_was_measured() -> None:
    data = read(FAILED)
    row(data, "rx_above_threshold")["status"] = "PASS"
    said = refuse(data)
    assert "row rx_above_threshold is PASS, and FAIL follows from its numbers: 0 > 0.8 share of windows" in said
    row(data, "rx_above_threshold").update(observed=0.99, reason="")
    assert "row rx_above_threshold says 99 % of windows, and by the measurements it is 0 % of windows" in refuse(data)


@pytest.mark.parametrize(
    ("file", "name", "observed"),
    [
        (PASSED, "weights_streamed", 205_300_993),
        (PASSED, "weights_within_budget", 1),
        (PCIE, "rx_of_ceiling", 0.96),
        (PCIE, "time_per_pass_vs_limit", 0.95),
    ],
)
def test_a_figure_that_the_measurements_hold_too_cannot_be_changed_alone(
    file: Path, name: str, observed: float
) -> None:
    data = read(file)
    row(data, name)["observed"] = observed
    assert f"row {name} says" in refuse(data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found["statistics"]["prefill"].update(unequal_elements=3), "row prefill_bit_equal says 0"),
        (lambda found: found["statistics"]["decode"].update(neither_l2_nor_top_k=1), "row decode_l2_or_top_k says 0"),
        (lambda found: found["statistics"]["decode"].update(nonfinite=1), "row finite_logits says 0"),
        (lambda found: found["passes"][1].update(unequal_elements=7), "a pass with 7"),
        (lambda found: found["witness"].update(different=["a.weight"]), "row weights_at_use says 0"),
        (lambda found: found["witness"].update(budget_bytes=9), "row weights_within_budget is held against"),
    ],
)
def test_measurements_that_show_a_failure_are_no_pass(change: Callable[[Data], None], said: str) -> None:
    data = read(PASSED)
    change(data["measurements"])
    assert said in refuse(data)


def test_windows_are_read_as_they_are_rounded() -> None:
    data = read(PCIE)
    least = min(data["measurements"]["windows"]["rx_mb_per_s"])
    data["params"]["threshold_mb_per_s"] = least + 0.4  # it may have been as much before it was rounded
    assert Outcome.from_dict(data).status is Status.PASS
    data["params"]["threshold_mb_per_s"] = least + 0.6
    assert "row rx_above_threshold says 100 % of windows" in refuse(data)


def test_a_turn_that_says_something_else_is_no_pass() -> None:
    data = read(AGENTS)
    data["measurements"]["turns"][1]["slept"]["text"] += "!"
    assert "row text_equals_twin says 0 tokens, and in 1 turns" in refuse(data)


# 3
def test_removed_rows_are_missed() -> None:
    data = read(FAILED)
    bad = {"rx_above_threshold", "rx_of_ceiling", "time_per_pass_vs_limit"}
    data["criteria"] = [found for found in data["criteria"] if found["name"] not in bad]
    data["status"] = "PASS"
    said = refuse(data)
    assert all(f"row {name} is missing, which pcie always has" in said for name in bad)


@pytest.mark.parametrize("check", ["logits", "pcie", "agents"])
def test_every_row_that_a_check_always_has_is_missed(check: str) -> None:
    assert Outcome.from_dict(whole(check).to_dict()).status is Status.PASS
    data = whole(check).to_dict()
    for number, gone in enumerate(data["criteria"]):
        left = data | {"criteria": data["criteria"][:number] + data["criteria"][number + 1 :]}
        assert f"row {gone['name']} is missing" in refuse(left)


# 4
@pytest.mark.parametrize("change", [{"required": False}, {"status": "SKIP", "observed": None, "threshold": None}])
def test_a_row_that_decides_cannot_be_made_one_that_does_not(change: Data) -> None:
    data = read(FAILED) | {"status": "PASS"}
    for name in ("rx_above_threshold", "rx_of_ceiling", "time_per_pass_vs_limit"):
        row(data, name).update(change)
    said = refuse(data)
    word = "is SKIP" if "status" in change else "is not required"
    assert f"row rx_above_threshold {word}, and pcie never passes without it" in said


# 5
def test_two_rows_of_one_name_are_refused() -> None:
    data = read(PASSED)
    data["criteria"].append(copy.deepcopy(data["criteria"][0]))
    assert "2 rows are called 'weights_streamed'" in refuse(data)


# 6
@pytest.mark.parametrize(
    ("name", "threshold", "said"),
    [
        ("rx_above_threshold", -1.0, "by the parameter threshold_share it is > 0.8"),
        ("rx_of_ceiling", 0.0, "by the parameter ceiling_share it is >= 0.95"),
        ("time_per_pass_vs_limit", 0.1, "by the parameter ceiling_fraction it is >= 0.9"),
    ],
)
def test_a_threshold_that_is_moved_is_refused(name: str, threshold: float, said: str) -> None:
    data = read(FAILED)
    row(data, name).update(threshold=threshold, status="PASS", reason="")
    data["status"] = "FAIL" if name != "rx_above_threshold" else data["status"]
    assert said in refuse(data)


def test_a_comparison_that_is_turned_round_and_a_fixed_threshold_that_is_moved_are_refused() -> None:
    data = read(PASSED)
    row(data, "prefill_bit_equal").update(comparison=">=")
    assert "row prefill_bit_equal is held against >= 0, and it is == 0" in refuse(data)
    data = read(PASSED)
    row(data, "weights_streamed").update(threshold=1)
    assert "row weights_streamed is held against 1 bytes, and by the measurements it is at least 201,772,512" in refuse(
        data
    )


# 7
def test_yesterdays_outcome_makes_no_run_green(tmp_path: Path) -> None:
    suite = write_params(tmp_path / "suite", f"outcome: {PASSED}\n")
    with pytest.raises(ParamsError, match="a suite measures, and does not show what was measured some other day"):
        read_suite(suite)
    assert read_suite(write_params(tmp_path / "other", "outcome: ''\n"))


# 8
def test_another_machines_outcome_is_beyond_reach_and_said_to_be() -> None:
    data = read(PASSED)
    data["environment"]["gpu"]["name"] = "Another GPU"
    assert Outcome.from_dict(data).status is Status.PASS  # --resume does not take it: tests/suite/test_machine.py
    assert "made on another machine" in DOCS


# 9
@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        (PASSED, "prompts", 8),
        (PASSED, "passes", 4),
        (PCIE, "duration_s", 3600.0),
        (PCIE, "window_ms", 5.0),
        (PCIE, "threshold_share", 0.99),
        (AGENTS, "sleeps", 30),
        (AGENTS, "agents", 80),
        (AGENTS, "memory_share", 0.9),
    ],
)
def test_params_that_are_swapped_do_not_fit_what_was_measured(file: Path, name: str, value: float) -> None:
    data = read(file)
    data["params"][name] = value
    assert "parameter" in refuse(data) or "always has" in refuse(data)


def test_a_parameter_that_leaves_no_trace_is_beyond_reach_and_said_to_be() -> None:
    data = read(PASSED)
    data["params"]["seed"] = 7
    assert Outcome.from_dict(data).status is Status.PASS
    assert "leave no trace" in DOCS


# 10
@pytest.mark.parametrize("criteria", [(), (skip("a", "b", unit="", reason="not asked for"),)], ids=["none", "skipped"])
def test_an_outcome_without_evidence_is_no_pass(criteria: Any) -> None:
    said = refuse(Outcome(check="logits", status=Status.PASS, summary="all fine", criteria=criteria).to_dict())
    assert "INCONCLUSIVE follows from its rows" in said
    assert "no evidence is no pass" in said


# 11: a fake banner in a cell is the subject of tests/report/notebook/test_hostile.py


def test_an_outcome_that_is_invented_whole_is_beyond_reach_and_said_to_be() -> None:
    assert Outcome.from_dict(whole("agents").to_dict()).status is Status.PASS
    assert "invented" in DOCS


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"status": "ERROR"}, "its status is ERROR and it does not say what stopped it"),
        ({"status": "SKIP"}, "its status is SKIP, and PASS follows"),
        ({"failure": {"type": "X", "message": "y", "traceback": ""}}, "its status is PASS and it says what stopped it"),
    ],
)
def test_status_and_failure_agree(changed: Data, said: str) -> None:
    assert said in refuse(read(PASSED) | changed)


def made(status: str, observed: Any = 1.0, **changed: Any) -> Data:
    outcome = whole("another", criteria=(judge("a", "b", 1.0, "<", 2.0, unit="s", evidence="c"),))
    data = json.loads(json.dumps(outcome.to_dict()))
    data["criteria"][0] |= {"status": status, "observed": observed, "reason": "because"} | changed
    return data | {"status": status if status in ("PASS", "FAIL") else "INCONCLUSIVE"}


@pytest.mark.parametrize(
    ("data", "follows"),
    [
        (made("PASS", None), "INCONCLUSIVE"),
        (made("FAIL", None), "INCONCLUSIVE"),
        (made("FAIL"), "PASS"),
        (made("INCONCLUSIVE"), "PASS"),
        (made("INCONCLUSIVE", 5.0), "FAIL"),
        (made("PASS", 5.0), "FAIL"),
        (made("PASS", "NaN"), "FAIL"),
        (made("PASS", floor=3.0), "INCONCLUSIVE"),
        (made("FAIL", 5.0, instrument=True), "INCONCLUSIVE"),
    ],
)
def test_a_rows_status_follows_from_its_numbers(data: Data, follows: str) -> None:
    assert f"and {follows} follows from its numbers" in refuse(data)


def test_other_rows_that_contradict_themselves_are_refused() -> None:
    assert "compares values that have no order" in refuse(made("PASS", "text"))
    assert "is SKIP, not asked for, and yet has 1 < 2" in refuse(made("SKIP"))
    assert "is ERROR, which only a check as a whole can be" in refuse(made("ERROR"))
    assert "is FAIL and does not say why" in refuse(made("FAIL", 5.0, reason=""))


def test_a_row_of_an_earlier_version_may_be_undecided_for_what_it_does_not_name() -> None:
    data = made("INCONCLUSIVE", 5.0)
    for name in ("floor", "instrument"):
        del data["criteria"][0][name]
    again = Outcome.from_dict(data)
    assert again.status is Status.INCONCLUSIVE
    assert Outcome.from_dict(again.to_dict()) == again
    data["criteria"][0]["status"] = data["status"] = "PASS"
    assert "FAIL follows from its numbers" in refuse(data)


def test_rows_as_they_are_judged_never_contradict_themselves() -> None:
    values = (None, 0, 1.0, 2.0, 3, float("nan"), float("inf"), True)
    for observed in values:
        for floor in values:
            for comparison in ("<", "<=", ">", ">=", "=="):
                for instrument in (True, False):
                    found = judge("a", "b", observed, comparison, 2.0, unit="", evidence="c", floor=floor,
                                  instrument=instrument)  # fmt: skip
                    assert find_contradiction(found) == ""


def test_a_folder_names_the_file_and_what_it_says_against_itself(tmp_path: Path) -> None:
    (tmp_path / "logits.outcome.json").write_text(json.dumps(read(FAILED) | {"status": "PASS"}))
    whole("pcie").save(tmp_path / "pcie.outcome.json")
    found = read_finished(tmp_path)
    assert list(found.outcomes) == ["pcie"]
    assert found.unreadable["logits"].startswith("logits.outcome.json cannot be read: outcome: it contradicts itself: ")


@pytest.mark.parametrize("name", ["claims_twice", "link_busy_before", "counter_freezes"])
def test_what_the_pcie_check_writes_of_a_fault_agrees_with_itself(name: str) -> None:
    from djinn_checks.faults.base import find_faults

    (fault,) = find_faults(["pcie"], name)
    outcome = fault.run(torch.device("cpu"))
    assert outcome.status is not Status.PASS
    assert Outcome.from_dict(json.loads(json.dumps(outcome.to_dict()))).status is outcome.status


def test_rows_made_up_for_tests_are_all_pass() -> None:
    assert all(found.status is Status.PASS for check in ("logits", "pcie", "agents") for found in whole_rows(check))
