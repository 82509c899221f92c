"""The front page of a suite's folder: every verdict on one page, with links to the reports."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from djinn_checks.outcome import Outcome, worst
from djinn_checks.report.html import read_style
from djinn_checks.report.pcie_tables import tabulate_peers
from djinn_checks.report.tables import Html, render_mapping, render_table, status_chip
from djinn_checks.units import format_seconds

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def render_index(title: str, outcomes: Mapping[str, Outcome], reports: Mapping[str, str]) -> str:
    """Return the page as HTML: self-contained, and it makes no request.

    Args:
        title: name of the suite.
        outcomes: by the name of the params file.
        reports: file names of the reports that exist, relative to the page, by the same names.
    """
    status = worst(outcome.status for outcome in outcomes.values())
    count = f"{len(outcomes)} check{'' if len(outcomes) == 1 else 's'}"
    parts = (_verdicts(outcomes, reports), _peers(outcomes), _machine(outcomes))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)} – djinn-checks</title>\n<style>{read_style()}</style>\n</head>\n"
        f'<body class="djinn-checks page">\n<main>\n<h1>{escape(title)}</h1>\n'
        f"<p>{count}, {status_chip(status)} on the whole: the worst verdict decides.</p>\n"
        f"{''.join(parts)}\n</main>\n"
        "<footer>Written by djinn-checks from the outcomes beside it. This page loads nothing, runs nothing.</footer>\n"
        "</body>\n</html>\n"
    )


def _verdicts(outcomes: Mapping[str, Outcome], reports: Mapping[str, str]) -> Html:
    rows = [
        (
            _link(name, reports.get(name)),
            status_chip(outcome.status),
            outcome.summary,
            format_seconds(outcome.timings.get("run_s", outcome.timings.get("total_s"))).replace(" ", "\u00a0"),
        )
        for name, outcome in outcomes.items()
    ]
    return render_table("Verdicts", ("Check", "Verdict", "What was found", "Time"), rows, numeric=False)


def _link(name: str, report: str | None) -> Html:
    return Html(f'<a href="{escape(report)}">{escape(name)}</a>' if report else f"{escape(name)} (no report)")


def _peers(outcomes: Mapping[str, Outcome]) -> Html:
    """Return the systems beside each other, if several ran over the same kind of link."""
    ran = [one for one in outcomes.values() if one.check == "pcie" and one.measurements.get("passes")]
    systems = {outcome.params.get("system") for outcome in ran}
    return tabulate_peers(ran) if len(systems) > 1 else Html("")


def _machine(outcomes: Mapping[str, Outcome]) -> Html:
    """Return machine and software of the first check that knows them, and say so if others differ."""
    known = [_without_notebook(one.environment) for one in outcomes.values() if one.environment]
    if not known:
        return Html("")
    differ = any(one != known[0] for one in known)
    note = "<p>Not all checks ran in the same environment; each report has its own.</p>" if differ else ""
    return Html(render_mapping("Machine and software", known[0]) + note)


def _without_notebook(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in environment.items() if name != "notebook"}
