"""Two suites side by side: what changed its status, and each criterion's old and new figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from djinn_checks.outcome import Criterion, Observed, Outcome, Status


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
    required: bool = True

    @property
    def changed(self) -> bool:
        """Whether the status is another one."""
        return self.old is not self.new

    @property
    def ratio(self) -> float | None:
        """New over old, where both are numbers and the old one is not 0."""
        old, new = self.old_value, self.new_value
        if isinstance(old, bool | str) or isinstance(new, bool | str) or old is None or new is None or old == 0:
            return None
        return new / old


def compare_suites(old: Mapping[str, Outcome], new: Mapping[str, Outcome]) -> list[Change]:
    """Return every check and criterion of both, what changed its status first."""
    names = list(dict.fromkeys([*old, *new]))
    rows = [change for name in names for change in _compare(name, old.get(name), new.get(name))]
    return sorted(rows, key=lambda row: not row.changed)  # stable: else the suites' own order


def _compare(name: str, old: Outcome | None, new: Outcome | None) -> Iterator[Change]:
    yield Change(name=name, criterion="", old=old.status if old else None, new=new.status if new else None)
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
            required=known.required if known else True,
        )


def _by_name(outcome: Outcome | None) -> dict[str, Criterion]:
    return {row.name: row for row in outcome.criteria} if outcome else {}
