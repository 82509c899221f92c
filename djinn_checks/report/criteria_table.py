"""The criteria of an outcome as a table: what was seen, what was expected, and why a row is what it is."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from djinn_checks.outcome import Criterion, Outcome, Status, format_quantity
from djinn_checks.report.tables import Html, render_quantity, render_threshold, status_chip
from djinn_checks.report.wholes import count_words

_COLUMNS = ("Status", "Claim", "Observed", "Expected", "Evidence", "Reason")


def render_criteria(outcome: Outcome) -> Html:
    """Return the criteria, what went wrong first; informative ones under a heading of their own.

    The last column is there only if a row has a reason that its other cells do not give.
    """
    if not outcome.criteria:
        return Html("<p>No criterion was judged.</p>")
    columns = _COLUMNS if any(tell_reason(row) for row in outcome.criteria) else _COLUMNS[:-1]
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    required = [row for row in outcome.failed_first if row.required]
    informative = [row for row in outcome.failed_first if not row.required]
    return Html(
        '<table class="criteria"><caption>Criteria'
        "<small>All required criteria must hold. What went wrong comes first.</small></caption>"
        f"<thead><tr>{head}</tr></thead>"
        + _group("Required: these decide", required, outcome, columns)
        + _group("Informative: shown, never decide", informative, outcome, columns)
        + "</table>"
    )


def render_observed(outcome: Outcome, row: Criterion) -> Html:
    """Return what was seen, with its unit, and of a count what it is counted among."""
    return Html(escape(count_words(outcome, row)) or render_quantity(row.observed, row.unit))


def tell_reason(row: Criterion) -> str:
    """Return a criterion's reason without the two figures that it begins with: they have columns of their own."""
    seen = f"{format_quantity(row.observed, row.unit)}, expected "
    if row.status is Status.SKIP or not row.reason.startswith(seen):
        return row.reason
    _, _, rest = row.reason.partition(f"{format_quantity(row.threshold, row.unit)}")
    return rest.removeprefix(": ")


def _group(title: str, criteria: Sequence[Criterion], outcome: Outcome, columns: Sequence[str]) -> str:
    if not criteria:
        return ""
    heading = f'<tr class="group"><th scope="rowgroup" colspan="{len(columns)}">{title}</th></tr>'
    return f"<tbody>{heading}{''.join(_row(row, outcome, columns) for row in criteria)}</tbody>"


def _row(row: Criterion, outcome: Outcome, columns: Sequence[str]) -> str:
    mark = "" if row.required else ' <span class="mark">informative</span>'
    claim = f"{escape(row.title)}<br><code>{escape(row.name)}</code>{mark}"
    observed = "" if row.status is Status.SKIP else render_observed(outcome, row)
    cells = (observed, render_threshold(row), _prose(row.evidence), _prose(tell_reason(row)))
    filled = zip(columns[2:], cells, strict=False)
    weight = "" if row.required else " informative"
    return (
        f'<tr class="{row.status.value.lower()}{weight}"><td>{status_chip(row.status)}</td>'
        f'<th scope="row">{claim}</th>'
        + "".join(f'<td class="{name.lower()}" data-label="{name}"><div>{cell}</div></td>' for name, cell in filled)
        + "</tr>"
    )


def _prose(text: str) -> str:
    return escape(text).replace("\n", "<br>")
