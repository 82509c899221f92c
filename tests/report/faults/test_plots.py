"""The matrix shows what caught what, and what escaped."""

from __future__ import annotations

from djinn_checks.report.faults.plots import plot_counts, plot_matrix
from djinn_checks.report.plots import to_svg
from tests.report.faults.samples import fault, found


def test_the_matrix_names_what_was_caught_and_what_escaped() -> None:
    outcome = found(fault("a"), fault("b", verdict="MISSED", alarms=[]), fault("c", verdict="not applicable"))
    plot = plot_matrix(outcome, "logits")
    assert plot.figure is not None
    assert "1 of 2 planted faults" in plot.alt
    texts = [text.get_text() for text in plot.figure.axes[0].texts]
    assert texts == ["named", "MISSED", "n/a"]
    assert to_svg(plot.figure)


def test_a_check_without_faults_has_a_sentence_for_its_matrix() -> None:
    assert plot_matrix(found(fault("a")), "pcie").figure is None


def test_faults_are_counted_in_whole_numbers() -> None:
    figure = plot_counts(found(*(fault(name) for name in "abcde"))).figure
    assert figure is not None
    assert all(tick == int(tick) for tick in figure.axes[0].get_xticks())
