"""Tables as HTML, for notebooks and for the exported page. Everything that comes from an outcome is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from djinn_checks.measurements import pcie
from djinn_checks.outcome import Criterion, Observed, Outcome, Status, format_quantity, format_value
from djinn_checks.units import format_bytes, format_seconds

ICONS = {
    Status.PASS: "✓",
    Status.FAIL: "✕",
    Status.INCONCLUSIVE: "?",
    Status.ERROR: "!",
    Status.SKIP: "–",
}
"""One glyph for each status, so that the colour is never the only sign."""

_SIGNS = {">=": "≥", "<=": "≤", "==": "="}


class Html(str):
    """Markup that is safe to embed as it is: text from outside was escaped when it was made."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return f'<div class="djinn-checks">{self}</div>'


_CARD_COLUMNS = 4
"""On a narrow screen a row of text in so many columns becomes a card."""
_MOST_ITEMS = 12
"""A longer list is a series, and nobody reads it in a table."""


def render_table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    note: str = "",
    numeric: bool = True,
) -> Html:
    """Return a table whose first cell of each row is its heading.

    Args:
        caption: what the table shows, with the units that all its cells share.
        rows: cells as text or plain values; `Html` cells are taken as they are.
        note: a sentence under the caption.
        numeric: align all columns but the first to the right.
    """
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    labels = () if numeric or len(columns) < _CARD_COLUMNS else columns
    body = "".join(_row(row, labels) for row in rows)
    kind = "numeric" if numeric else "plain cards" if labels else "plain"
    small = f"<small>{escape(note)}</small>" if note else ""
    return Html(
        f'<div class="scroll" role="group" tabindex="0" aria-label="{escape(caption)}"><table class="{kind}">'
        f"<caption><div>{escape(caption)}{small}</div></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def render_mapping(caption: str, values: Mapping[str, Any], *, missing: str = "unknown") -> Html:
    """Return plain data as a table of names and values; nested names are joined by dots.

    Args:
        missing: what stands for a value that is None.
    """
    rows = [(_breakable(name), missing if value is None else _fact(name, value)) for name, value in flatten(values)]
    if not rows:
        return Html(f"<p><strong>{escape(caption)}</strong>: none recorded.</p>")
    return render_table(caption, ("Name", "Value"), rows, numeric=False)


def render_problem(text: str) -> Html:
    """Return a sentence in the place of a figure or table that could not be made."""
    return Html(f'<p class="nothing-to-draw">{escape(text)}</p>')


def render_params(outcome: Outcome) -> Html:
    """Return the parameters that the outcome was made with, defaults included; folded."""
    count = len(list(flatten(outcome.params)))
    table = render_mapping("Parameters, as resolved", outcome.params, missing="not given")
    return fold(f"Parameters, as resolved ({count})", table)


def render_environment(outcome: Outcome) -> Html:
    """Return machine and software of the outcome, and how long its parts took; folded."""
    machine = fold("Machine and software", render_mapping("Machine and software", outcome.environment))
    return Html(machine + fold("Timings", render_mapping("Timings", outcome.timings)))


def fold(words: str, inner: Html) -> Html:
    """Return a table that a reader looks up, folded under words; on paper it is there. A sentence is not folded."""
    if inner.startswith("<p>"):
        return inner
    return Html(f'<details class="facts"><summary>{escape(words)}</summary>{inner}</details>')


def format_share(share: float | None) -> str:
    """Return a share in percent; only exactly 1 is "100 %" and only exactly 0 is "0 %". Above 1 it is a ratio."""
    if share is None:
        return "unknown"
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    percent = 100 * share
    if percent < 0.01:
        return "< 0.01 %"
    return "> 99.99 %" if 99.99 <= percent < 100 else f"{percent:.2f} %"


def as_number(value: Any) -> float | None:
    """Return a measurement as a float: "NaN" and "Infinity" as JSON holds them, None as it is."""
    return None if value is None else float(value)


def name_some(names: Sequence[str]) -> str:
    """Return the first three names and how many more there are; "none" for none."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more if names else "none"


def status_chip(status: Status) -> Html:
    """Return a status as icon and word."""
    icon = f'<span aria-hidden="true">{ICONS[status]}</span>'
    return Html(f'<span class="chip {status.value.lower()}">{icon} {status.value}</span>')


def link_beside(file: str, words: str) -> Html:
    """Return a link to a file beside the page; `./` and quoting keep a name from being read as anything else.

    Args:
        file: its name.
        words: text; `Html` is taken as it is.
    """
    return Html(f'<a href="./{escape(quote(file))}">{words if isinstance(words, Html) else escape(words)}</a>')


def describe_subject(outcome: Outcome) -> str:
    """Return what a verdict is about where that is no GPU's link: a replay, or host memory. Else nothing."""
    link = pcie.read(outcome.measurements).get("link")
    return "" if not link or link.get("subject", "pcie") == "pcie" else link["label"]


def render_threshold(row: Criterion) -> Html:
    """Return what a criterion expects, with its sign; nothing where it has no threshold."""
    if row.threshold is None:
        return Html("")
    is_share = row.unit.startswith("share")  # as it was asked for: 95 %, where one that was measured is 95.00 %
    asked = escape(format_quantity(row.threshold, row.unit)) if is_share else render_quantity(row.threshold, row.unit)
    return Html(f"{escape(_SIGNS.get(row.comparison, row.comparison))}&nbsp;{asked}")


def render_quantity(value: Observed, unit: str) -> Html:
    """Return a value with its unit: bytes also in GB or MB, shares in percent, seconds as a person says them."""
    return Html(_quantity(value, unit))


def _quantity(value: Observed, unit: str) -> str:
    if isinstance(value, bool | str) or value is None:
        return escape(format_value(value))
    if unit == "s" and 0 < abs(value) < math.inf:
        return escape(format_seconds(value))
    if unit.startswith("bytes") and abs(value) >= 1000:
        rest = escape(unit.removeprefix("bytes"))
        return f"{format_bytes(value)}{rest}<br><small>{escape(format_value(value))} bytes</small>"
    if unit.startswith("share"):
        return escape(format_share(value) + unit.removeprefix("share"))
    return escape(f"{format_value(value)} {unit}".strip())


def _row(cells: Sequence[Any], labels: Sequence[str]) -> str:
    """Return a row; with labels each cell also bears the name of its column, for screens that stack them."""
    first, *rest = (cell if isinstance(cell, Html) else escape(_text(cell)) for cell in cells)
    named = zip(labels[1:], rest, strict=True) if labels else ((None, cell) for cell in rest)
    return f'<tr><th scope="row">{first}</th>' + "".join(_cell(label, cell) for label, cell in named) + "</tr>"


def _cell(label: str | None, cell: str) -> str:
    return f"<td>{cell}</td>" if label is None else f'<td data-label="{escape(label)}"><div>{cell}</div></td>'


def _fact(name: str, value: Any) -> Html | str:
    """Return a value as text; sizes also in GB or MB."""
    if name.endswith("_bytes") and isinstance(value, int | float) and abs(value) >= 1000:
        return Html(f"{escape(format_bytes(value))} <small>{escape(_text(value))} bytes</small>")
    return _text(value)


def _breakable(name: str) -> Html:
    """Return a name that a narrow column may break after its dots and underscores, and nowhere else if it can."""
    return Html(escape(name).replace(".", ".<wbr>").replace("_", "_<wbr>"))


def _text(value: Any) -> str:
    if isinstance(value, list | tuple) and (len(value) > _MOST_ITEMS or any(isinstance(item, dict) for item in value)):
        return f"{len(value):,} values, in the outcome's JSON"
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value) if value else "none"
    if isinstance(value, float):
        return f"{value:.10g}"  # parameters and facts are shown as they are, not rounded like measurements
    if value is None or isinstance(value, bool | int | str):
        return format_value(value)
    return str(value)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the names and values of nested plain data, nested names joined by dots."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
