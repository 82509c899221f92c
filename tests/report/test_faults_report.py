"""The matrix shows what caught what, and what escaped."""

from __future__ import annotations

from typing import Any

from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.faults_report import plot_matrix, tabulate_faults
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
    assert texts == ["named", "MISSED"]
    assert to_svg(plot.figure)


def test_a_check_without_faults_is_a_sentence() -> None:
    assert plot_matrix(found(fault("a")), "pcie").figure is None
    assert "No fault" in tabulate_faults(Outcome(check="faults", status=Status.ERROR, summary=""))


def test_the_table_escapes_what_it_shows() -> None:
    table = tabulate_faults(found(fault("a")))
    assert "A &lt;row&gt;." in table
    assert "weights_at_use" in table
