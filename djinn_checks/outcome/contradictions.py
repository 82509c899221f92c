"""What an outcome says against itself: a status is never believed, it is derived again from what it rests on.

A row's status follows from its numbers, the check's from its required rows. Beyond that an outcome of a check that
this version knows has the rows that the check always has, holds them against the thresholds that its parameters name,
and says in them what its measurements say (`expected.py`). A file in which all of that agrees may still be invented:
this finds what was edited in one place and not in all others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from djinn_checks.outcome.criterion import Criterion, format_quantity, settle
from djinn_checks.outcome.expected import find_unexpected
from djinn_checks.outcome.status import Status, decide

_MOST_SHOWN = 3


class Said(NamedTuple):
    """What of an outcome has to agree."""

    check: str
    status: Status
    criteria: Sequence[Criterion]
    has_failed: bool
    """Whether it tells what stopped the check."""
    params: Mapping[str, Any]
    measurements: Mapping[str, Any]


def find_contradictions(said: Said) -> list[str]:
    """Return what contradicts itself, each in a clause, the first few and how many more; empty if all agrees."""
    found = list_contradictions(said)
    more = [f"and {len(found) - _MOST_SHOWN:,} more"] if len(found) > _MOST_SHOWN else []
    return found[:_MOST_SHOWN] + more


def list_contradictions(said: Said) -> list[str]:
    """Return all that contradicts itself, each in a clause."""
    found = [*_find_duplicates(said.criteria)]
    found += [problem for row in said.criteria if (problem := find_contradiction(row))]
    found += _find_wrong_status(said)
    if not found and said.status is not Status.ERROR:  # rows that contradict themselves say nothing about the rest
        found += find_unexpected(said.check, said.status, said.criteria, said.params, said.measurements)
    return found


def find_contradiction(row: Criterion) -> str:
    """Return what a row says that does not follow from its numbers; empty if it does."""
    if row.status is Status.ERROR:
        return f"row {_name(row)} is ERROR, which only a check as a whole can be"
    if row.status is Status.FAIL and not row.reason:
        return f"row {_name(row)} is FAIL and does not say why"
    if row.status is Status.SKIP:
        is_empty = row.observed is None and row.threshold is None and row.floor is None
        return "" if is_empty else f"row {_name(row)} is SKIP, not asked for, and yet has {_tell(row)}"
    try:
        follows = decide(
            row.observed, row.comparison, row.threshold, floor=row.floor, instrument=row.instrument is True
        )
    except TypeError:
        return f"row {_name(row)} compares values that have no order: {_tell(row)}"
    if follows is row.status or _may_be_undecided(row):
        return ""
    return f"row {_name(row)} is {row.status}, and {follows} follows from its numbers: {_tell(row)}"


def _may_be_undecided(row: Criterion) -> bool:
    """Tell whether a row of an earlier version may be undecided for a floor or an instrument that it does not name."""
    return row.instrument is None and row.status is Status.INCONCLUSIVE and row.reason != ""


def _find_duplicates(criteria: Sequence[Criterion]) -> Iterator[str]:
    counts = Counter(row.name for row in criteria)
    yield from (f"{count} rows are called {name[:80]!r}" for name, count in counts.items() if count > 1)


def _find_wrong_status(said: Said) -> Iterator[str]:
    if (said.status is Status.ERROR) != said.has_failed:
        has = "says what stopped it" if said.has_failed else "does not say what stopped it"
        yield f"its status is {said.status} and it {has}"
    if said.status is Status.ERROR:
        return
    follows = settle(said.criteria)
    if follows is not said.status:
        decisive = [row.name for row in said.criteria if row.required and row.status is follows]
        judged = [row for row in said.criteria if row.required and row.status is not Status.SKIP]
        why = f", by {decisive[0][:80]}" if decisive else ""
        none = "" if judged else ": it has no required row that was judged, and no evidence is no pass"
        yield f"its status is {said.status}, and {follows} follows from its rows{why}{none}"


def _name(row: Criterion) -> str:
    return row.name[:80]


def _tell(row: Criterion) -> str:
    """Return a row's numbers as they are compared."""
    floor = "" if row.floor is None else f", noise floor {format_quantity(row.floor, '')[:40]}"
    observed, threshold = (format_quantity(value, "")[:40] for value in (row.observed, row.threshold))
    return f"{observed} {row.comparison} {threshold} {row.unit[:40]}{floor}".strip()
