"""Two suites side by side: what changed its status, and each criterion's old and new figure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from djinn_checks.outcome import Criterion, Observed, Outcome, Status

_SAME = 0.01
"""Relative difference up to which two figures count as the same: shares of a link's ceiling repeat within it."""
_RATIOS = ("share", "times")
"""What the unit of a ratio begins with: its yardstick was measured in the same run, or is the claim's own. Other
figures are the machine's, as seconds are, or counts."""

Names = Collection[str]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One criterion of one check in two suites; None where a suite does not have it."""

    name: str
    """Name of the params file."""
    criterion: str
    """Empty for the check as a whole."""
    old: Status | None
    new: Status | None
    old_value: Observed = None
    new_value: Observed = None
    unit: str = ""
    comparison: str = ""
    required: bool = True
    unreadable: tuple[bool, bool] = (False, False)
    """Whether the old and the new outcome are there and cannot be read: then their status is None, too."""

    @property
    def shared(self) -> bool:
        """Whether both suites have it."""
        return self.old is not None and self.new is not None

    @property
    def differs(self) -> bool:
        """Whether the status is another one, or a suite has none that can be read."""
        return self.old is not self.new or any(self.unreadable)

    @property
    def changed(self) -> bool:
        """Whether both suites have it and the status is another one."""
        return self.shared and self.differs

    @property
    def figures(self) -> tuple[float, float] | None:
        """Old and new value, where both are numbers."""
        old, new = self.old_value, self.new_value
        return (old, new) if _is_number(old) and _is_number(new) else None

    @property
    def ratio(self) -> float | None:
        """New over old, where both are numbers and the old one is not 0."""
        old, new = self.figures or (0, 0)
        return new / old if old != 0 else None

    @property
    def is_ratio(self) -> bool:
        """Whether both figures are numbers and ratios."""
        return self.figures is not None and self.unit.startswith(_RATIOS)

    @property
    def moved(self) -> bool:
        """Whether the figure is another one by more than 1 %; what was 0 has moved if it is not 0 now.

        A share that has to stay small is an error or a disturbance, and 1 % of the whole is what counts: an error of
        0.0002 % that is 0.0004 % the next time has not moved.
        """
        if self.figures is None:
            return False
        old, new = self.figures
        if self.unit.startswith("share") and self.comparison in ("<", "<="):
            return old != new and not abs(new - old) <= _SAME
        return new != 0 if self.ratio is None else abs(self.ratio - 1) > _SAME


def summarize_changes(rows: Sequence[Change]) -> str:
    """Return how many statuses and figures differ, in one sentence."""
    shared = sum(row.shared for row in rows)
    unreadable = sum(any(row.unreadable) for row in rows)
    lacking = len(rows) - shared - unreadable
    others = f"; lacking in one suite: {lacking}" if lacking else ""
    others += f"; cannot be read: {unreadable}" if unreadable else ""
    ratios = [row for row in rows if row.is_ratio]
    plain = [row for row in rows if row.figures is not None and not row.is_ratio]
    return (
        f"{sum(row.changed for row in rows)} of {shared} statuses differ{others}. "
        f"Of the figures, {sum(row.moved for row in ratios)} of {len(ratios)} ratios and "
        f"{sum(row.moved for row in plain)} of {len(plain)} times, sizes and counts differ by more than 1 %."
    )


def compare_suites(
    old: Mapping[str, Outcome], new: Mapping[str, Outcome], unreadable: tuple[Names, Names] = ((), ())
) -> list[Change]:
    """Return every check, and every criterion of those that both suites have.

    What changed its status comes first, then what one suite lacks, what moved, and the rest.

    Args:
        unreadable: the names of those outcomes of the old and of the new suite that cannot be read.
    """
    torn = {name: (name in unreadable[0], name in unreadable[1]) for name in (*unreadable[0], *unreadable[1])}
    rows = [Change(name=name, criterion="", old=_status(old, name), new=_status(new, name), unreadable=torn[name])
            for name in torn]  # fmt: skip
    names = [name for name in dict.fromkeys([*old, *new]) if name not in torn]
    rows += [change for name in names for change in _compare(name, old.get(name), new.get(name))]
    return sorted(rows, key=_place)  # else in the suites' order


def _status(suite: Mapping[str, Outcome], name: str) -> Status | None:
    return suite[name].status if name in suite else None


def _place(row: Change) -> int:
    return 0 if row.changed else 1 if not row.shared else 2 if row.moved else 3


def _compare(name: str, old: Outcome | None, new: Outcome | None) -> Iterator[Change]:
    yield Change(name=name, criterion="", old=old.status if old else None, new=new.status if new else None)
    if old is None or new is None:  # one line says it
        return
    before, after = _by_name(old), _by_name(new)
    for criterion in dict.fromkeys([*before, *after]):
        was, now = before.get(criterion), after.get(criterion)
        known = now or was
        yield Change(
            name=name,
            criterion=criterion,
            old=was.status if was else None,
            new=now.status if now else None,
            old_value=was.observed if was else None,
            new_value=now.observed if now else None,
            unit=known.unit if known else "",
            comparison=known.comparison if known else "",
            required=known.required if known else True,
        )


def _is_number(value: Observed) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _by_name(outcome: Outcome) -> dict[str, Criterion]:
    return {row.name: row for row in outcome.criteria}
