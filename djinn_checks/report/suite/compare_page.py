"""Two suites side by side as a page: what changed its status first, then what was asked and where it ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from djinn_checks.outcome import Observed, Outcome, Status
from djinn_checks.report.page import render_page
from djinn_checks.report.suite.compare import Change, Names, compare_suites, summarize_changes
from djinn_checks.report.tables import Html, flatten, render_quantity, render_table, status_chip

Facts = dict[tuple[str, str], Any]
"""Parameters or facts by the check that has them, and their names."""


def render_comparison(
    names: tuple[str, str],
    old: Mapping[str, Outcome],
    new: Mapping[str, Outcome],
    unreadable: tuple[Names, Names] = ((), ()),
) -> str:
    """Return the comparison as HTML: self-contained, and it makes no request.

    Args:
        names: of the old and the new suite, for headings.
        old: outcomes by the name of the params file.
        new: likewise.
        unreadable: the names of those outcomes of the old and of the new suite that cannot be read.
    """
    rows = compare_suites(old, new, unreadable)
    kept = [row for row in rows if not row.differs]
    torn = [row for row in rows if any(row.unreadable)]
    both = [name for name in old if name in new]
    parts = (
        f"<p>Old: <strong>{escape(names[0])}</strong>. New: <strong>{escape(names[1])}</strong>. "
        f"{summarize_changes(rows)}</p>",
        _changes("What changed its status", [row for row in rows if row.changed]),
        _changes("What cannot be read", torn) if torn else "",
        _changes("What only one suite has", [row for row in rows if not row.shared and row not in torn]),
        _changes("What kept its status and moved by more than 1 %", [row for row in kept if row.moved]),
        _changes("What kept its status and stayed", [row for row in kept if not row.moved]),
        _differences("Parameters that differ", *(_facts(suite, both, "params") for suite in (old, new))),
        _differences("Machine and software that differ", *(_facts(suite, both, "environment") for suite in (old, new))),
    )
    return render_page(f"{names[0]} and {names[1]}", parts)


def _changes(caption: str, rows: Sequence[Change]) -> Html:
    if not rows:
        return Html(f"<p><strong>{escape(caption)}</strong>: nothing.</p>")
    cells = [
        (
            _name(row),
            _side(row.old, row.old_value, row.unit, unreadable=row.unreadable[0]),
            _side(row.new, row.new_value, row.unit, unreadable=row.unreadable[1]),
            "" if row.ratio is None else f"{row.ratio:.4g}",
        )
        for row in rows
    ]
    return render_table(caption, ("Check and criterion", "Old", "New", "New / old"), cells, numeric=False)


def _name(row: Change) -> Html:
    mark = "" if row.required else ' <span class="mark">informative</span>'
    what = f"<code>{escape(row.criterion)}</code>{mark}" if row.criterion else "<strong>the whole check</strong>"
    return Html(f"{escape(row.name)}: {what}")


def _side(status: Status | None, value: Observed, unit: str, *, unreadable: bool) -> Html:
    if status is None:
        return Html("cannot be read" if unreadable else "absent")
    return Html(status_chip(status) + ("" if value is None else f" {render_quantity(value, unit)}"))


def _differences(caption: str, old: Facts, new: Facts) -> Html:
    whose: dict[tuple[str, str, str], list[str]] = {}
    for (check, fact), (before, after) in _both(old, new).items():
        if before != after:
            whose.setdefault((fact, _brief(before, after), _brief(after, before)), []).append(check)
    if not whose:
        return Html(f"<p><strong>{escape(caption)}</strong>: none.</p>")
    rows = [(f"{', '.join(checks)}: {fact}", before, after) for (fact, before, after), checks in whose.items()]
    return render_table(caption, ("Name", "Old", "New"), rows, numeric=False)


def _both(old: Facts, new: Facts) -> dict[tuple[str, str], tuple[Any, Any]]:
    return {name: (old.get(name, "absent"), new.get(name, "absent")) for name in dict.fromkeys([*old, *new])}


def _brief(value: Any, other: Any) -> str:
    """Return a value as text; of a list, such as that of all packages, only the items that the other list lacks."""
    if isinstance(value, list) and isinstance(other, list):
        return ", ".join(str(item) for item in value if item not in other) or "nothing else"
    return str(value)


def _facts(suite: Mapping[str, Outcome], names: Iterable[str], kind: str) -> Facts:
    """Return every parameter or fact of the named checks, by check and name."""
    return {(name, fact): value for name in names for fact, value in flatten(getattr(suite[name], kind))}
