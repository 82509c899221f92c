"""The matrix shows what caught what, and what escaped."""

from __future__ import annotations

from typing import Any

from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.faults.tables import (
    list_floors,
    plot_matrix,
    tabulate_false_alarms,
    tabulate_faults,
    tabulate_floors,
)
from djinn_checks.report.plots import to_svg


def fault(name: str, **changed: Any) -> dict[str, Any]:
    values = {
        "name": name, "check": "logits", "breaks": "A <row>.", "modelled_on": "x", "caught_by": "weights_at_use",
        "effect": "FAIL", "verdict": "caught", "status": "FAIL", "alarms": ["weights_at_use", "prefill_bit_equal"],
        "attempts": 1,
    }  # fmt: skip
    return values | changed


def found(*faults: dict[str, Any]) -> Outcome:
    return Outcome(check="faults", status=Status.PASS, summary="", measurements={"faults": list(faults)})


def test_the_matrix_names_what_was_caught_and_what_escaped() -> None:
    outcome = found(fault("a"), fault("b", verdict="MISSED", alarms=[]), fault("c", verdict="not applicable"))
    plot = plot_matrix(outcome, "logits")
    assert plot.figure is not None
    assert "1 of 2 were caught" in plot.alt
    texts = [text.get_text() for text in plot.figure.axes[0].texts]
    assert texts == ["named", "MISSED", "n/a"]
    assert to_svg(plot.figure)


def test_a_check_without_faults_is_a_sentence() -> None:
    assert plot_matrix(found(fault("a")), "pcie").figure is None
    assert "No fault" in tabulate_faults(Outcome(check="faults", status=Status.ERROR, summary=""))


def test_the_table_escapes_what_it_shows() -> None:
    table = tabulate_faults(found(fault("a")))
    assert "A &lt;row&gt;." in table
    assert "weights_at_use" in table


def test_a_floor_is_the_last_dose_that_a_criterion_caught_and_the_first_that_escaped_it() -> None:
    doses = [
        {"size": 22, "caught": True, "failed": ["weights_at_use", "prefill_bit_equal"]},
        {"size": 6, "caught": True, "failed": ["weights_at_use", "prefill_bit_equal"]},
        {"size": 0, "caught": True, "failed": ["weights_at_use"]},
    ]
    outcome = found(fault("bits", doses=doses, dose_unit="bits"), fault("without"))
    assert list(list_floors(outcome)) == [
        ("bits", "weights_at_use", "0", "none", "bits"),
        ("bits", "prefill_bit_equal", "6", "0", "bits"),
    ]
    assert "prefill_bit_equal" in tabulate_floors(outcome)


def test_a_criterion_that_caught_no_dose_of_its_fault_says_so() -> None:
    outcome = found(fault("a", doses=[{"size": 1, "caught": False, "failed": []}], dose_unit="s"))
    assert [row[2:4] for row in list_floors(outcome)] == [("none of these", "1")]


def test_false_alarms_are_shown_with_what_was_accused() -> None:
    clean: dict[str, dict[str, Any]] = {
        "logits": {"check": "logits", "says": "a tiny model", "runs": 30, "false_alarms": 1, "alarms": ["x: 1 <y>"]}
    }
    outcome = Outcome(check="faults", status=Status.FAIL, summary="", measurements={"clean": clean})
    table = tabulate_false_alarms(outcome)
    assert "x: 1 &lt;y&gt;" in table
    clean["logits"] |= {"false_alarms": 0, "alarms": [], "undecided": 1, "doubts": ["ruler: bent"]}
    assert "ruler: bent" in tabulate_false_alarms(outcome)
    assert "No clean system" in tabulate_false_alarms(found())
