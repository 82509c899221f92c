"""Outcomes in a notebook: a cell that ends with one shows its verdict and criteria as tables.

An outcome is plain data and knows of no page. Who shows it is asked instead: IPython looks a type up by its name when
a value of it is displayed, so nothing is loaded before.
"""

from __future__ import annotations

from typing import Any

_OUTCOME, _CRITERION = "djinn_checks.outcome.record", "djinn_checks.outcome.criterion"


def register(shell: Any) -> None:
    """Tell a running IPython how to show outcomes and criteria. Doing so twice changes nothing.

    Args:
        shell: what `IPython.get_ipython()` returns in a kernel or a terminal.
    """
    formatters = shell.display_formatter.formatters
    formatters["text/html"].for_type_by_name(_OUTCOME, "Outcome", _render_outcome)
    formatters["text/html"].for_type_by_name(_CRITERION, "Criterion", _render_criterion)
    formatters["text/plain"].for_type_by_name(_OUTCOME, "Outcome", _print_outcome)


def _render_outcome(outcome: Any) -> str:
    from djinn_checks.report.verdict import render_fragment

    return render_fragment(outcome)


def _render_criterion(criterion: Any) -> str:
    from dataclasses import asdict

    from djinn_checks.report.tables import render_mapping

    return render_mapping(criterion.title, asdict(criterion))._repr_html_()


def _print_outcome(outcome: Any, printer: Any, cycle: bool) -> None:
    from djinn_checks.report.verdict import describe

    printer.text(f"{outcome.check}: {describe(outcome)}")
