"""The criteria of an outcome as a table: what was seen, what was expected, and why a row is what it is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape

from djinn_checks.outcome import Criterion, Outcome, Status, format_quantity
from djinn_checks.report.tables import Html, render_quantity, render_threshold, status_chip
from djinn_checks.report.wholes import count_words

_WORTH_SAYING_ONCE = 40
"""Characters of evidence: shorter words are read faster than looked up in the row above."""
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
    told = shorten_evidence([row.evidence for row in criteria])
    rows = (_row(row, evidence, outcome, columns) for row, evidence in zip(criteria, told, strict=True))
    return f"<tbody>{heading}{''.join(rows)}</tbody>"


def shorten_evidence(every: Sequence[str]) -> list[str]:
    """Return the evidence of rows that stand beneath each other: what one begins with as the one before it, once."""
    told = list(every[:1])
    for before, evidence in itertools.pairwise(every):
        shared = [part for part, other in itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(evidence.split("; "), before.split("; "), strict=False))]  # fmt: skip
        begun = "; ".join(shared)
        told.append(evidence if len(begun) < _WORTH_SAYING_ONCE else f"as above{evidence.removeprefix(begun)}")
    return told


def _row(row: Criterion, evidence: str, outcome: Outcome, columns: Sequence[str]) -> str:
    mark = "" if row.required else ' <span class="mark">informative</span>'
    claim = f"{escape(row.title)}<br><code>{escape(row.name)}</code>{mark}"
    observed = "" if row.status is Status.SKIP else render_observed(outcome, row)
    cells = (observed, render_threshold(row), _prose(evidence), _prose(tell_reason(row)))
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
