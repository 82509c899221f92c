"""Outcomes in a notebook: a cell that ends with one shows its verdict and criteria as tables.

An outcome is plain data and knows of no page. Who shows it is asked instead: IPython looks a type up by its name when
a value of it is displayed, so nothing is loaded before.
"""

from __future__ import annotations

import warnings
from typing import Any

_PARAMS = ("LogitsParams", "PcieParams", "AgentsParams", "HostParams", "FaultsParams")
_OUTCOME, _CRITERION = "djinn_checks.outcome.record", "djinn_checks.outcome.criterion"


def register(shell: Any) -> None:
    """Tell a running IPython how to show outcomes and criteria. Doing so twice changes nothing.

    Args:
        shell: what `IPython.get_ipython()` returns in a kernel or a terminal.
    """
    formatters = shell.display_formatter.formatters
    formatters["text/html"].for_type_by_name(_OUTCOME, "Outcome", _render_outcome)
    formatters["text/html"].for_type_by_name(_CRITERION, "Criterion", _render_criterion)
    for name in _PARAMS:
        formatters["text/html"].for_type_by_name("djinn_checks.params", name, _render_params)
    # A library's bars need an extension of JupyterLab's that is not asked for; without it they are text, and no matter.
    warnings.filterwarnings("ignore", message="IProgress not found")
    formatters["text/plain"].for_type_by_name(_OUTCOME, "Outcome", _print_outcome)


def _render_outcome(outcome: Any) -> str:
    from djinn_checks.report.verdict import render_fragment

    return render_fragment(outcome)


def _render_criterion(criterion: Any) -> str:
    from dataclasses import asdict

    from djinn_checks.report.tables import render_mapping

    return render_mapping(criterion.title, asdict(criterion))._repr_html_()


def _render_params(params: Any) -> str:
    """Return each parameter with its value and what it means: the cell that sets them is one long line each."""
    from djinn_checks.report.style import read_style
    from djinn_checks.report.tables import render_table

    fields = type(params).model_fields
    given = {name: getattr(params, name) for name in sorted(fields, key=lambda name: name == "outcome")}
    rows = [
        (name, "not given" if value in (None, "") else value, str(fields[name].description or ""))
        for name, value in given.items()
    ]
    table = render_table(f"Parameters of the {params.check} check", ("Name", "Value", "Meaning"), rows, numeric=False)
    return f"<style>{read_style()}</style>{table._repr_html_()}"


def _print_outcome(outcome: Any, printer: Any, cycle: bool) -> None:
    from djinn_checks.report.verdict import describe

    printer.text(f"{outcome.check}: {describe(outcome)}")
