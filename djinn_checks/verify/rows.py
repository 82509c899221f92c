"""A row of an outcome against the same row, judged again."""

from __future__ import annotations

from djinn_checks.outcome import Criterion
from djinn_checks.verify.finding import Finding, compare, disagrees

_SHARE_OFF = 0.005
"""Of a row: one or two of some hundred windows lie at a threshold, and the microseconds decide."""
_OF_TWO_READINGS = ("counted_is_possible", "counters_alive")
"""Rows about the time between two readings, a millisecond, of which a microsecond is much."""
_SMALL = 1e-4


def hold_row(file: str, row: Criterion, again: Criterion, source: str) -> Finding:
    """Hold a row against the one that was judged again: its value, what it is held against, and its status."""
    is_coarse = row.unit == "share of windows" or row.name in _OF_TWO_READINGS
    told = compare(
        file, row.name, row.observed, again.observed, source,
        relative=_SHARE_OFF if is_coarse else 1e-3, absolute=_SHARE_OFF if is_coarse else _SMALL,
    )  # fmt: skip
    if told.kind != "agrees":
        return told
    if (row.comparison, row.threshold) != (again.comparison, again.threshold):
        held = f"{row.comparison} {row.threshold}"
        return disagrees(
            file, row.name, f"is held against {held}, and judged again {again.comparison} {again.threshold}"
        )
    if row.status is not again.status:
        return disagrees(file, row.name, f"is {row.status}, and by {source} it is {again.status}")
    return told
