"""Tables of planted faults say what caught what, how little of it, and what clean systems were accused of."""

from __future__ import annotations

from typing import Any

from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.faults.tables import (
    list_floors,
    tabulate_false_alarms,
    tabulate_faults,
    tabulate_floors,
)
from tests.report.faults.samples import fault, found


def test_an_outcome_without_faults_has_a_sentence_for_its_table() -> None:
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
