"""Many finished suites as series: each criterion of each run, on each machine, over time.

A series is of one machine: two machines differ by more than a regression does. Where it changes its level beyond its
own noise a change is marked (`changes.py`). A row whose status flips where no change is marked is flaky: the figure
lies so near the threshold that noise decides, or the row has no figure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from djinn_checks.outcome import Criterion, Outcome, Status
from djinn_checks.report.suite.changes import Shift, can_shift, find_shifts
from djinn_checks.report.suite.hosts import Machine, find_machines, split_host
from djinn_checks.report.tables import flatten

ALPHA = 0.025
"""How often a page of nothing but noise has a mark, by the formula: shared out evenly among its series."""
WHOLE = ""
"""Stands for the check as a whole, in place of a criterion's name."""
_NEAR = 1
"""Runs between a flip of the status and a change that explains it."""
_FACTS = ("platform", "python")
"""Facts of a machine's software, beside packages, commits and drivers, that a change is held against."""
_MOST_TOLD = 6
_WHOLE_SECONDS = 1.0
"""When a run began is told to the second."""
_UNDATED = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A finished suite, one folder."""

    label: str
    """As it is shown."""
    outcomes: Mapping[str, Outcome]
    host: str = ""
    """What the user calls its host; empty: after the hardware that its outcomes name."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One row of one run."""

    folder: str
    outcome: Outcome
    status: Status
    value: float | None
    """None where the row has no figure."""
    threshold: float | None

    @property
    def commit(self) -> str:
        """Of what was checked: the system's, else this package's; seven digits, `+` if it was changed; or nothing."""
        environment = self.outcome.environment
        own, system = environment.get("source"), (environment.get("system") or {}).get("source")
        source = system or own or {}
        return f"{str(source.get('commit') or '')[:7]}{'+' if source.get('dirty') else ''}"

    @property
    def when(self) -> datetime:
        """When the check began; what does not say stands last."""
        try:
            found = datetime.fromisoformat(self.outcome.started_at)
        except ValueError:
            return _UNDATED
        return found if found.tzinfo else found.replace(tzinfo=UTC)

    @property
    def ended(self) -> datetime | None:
        """When the check had ended at the earliest; None where the outcome does not say when it began."""
        seconds = _number(self.outcome.timings.get("run_s", self.outcome.timings.get("total_s"))) or 0.0
        try:
            return self.when + timedelta(seconds=max(0.0, seconds - _WHOLE_SECONDS))
        except OverflowError:  # what does not say when it began, and a figure that nobody can have measured
            return None


@dataclass(frozen=True, kw_only=True)
class Series:
    """A row over the runs of one machine, in the order of time."""

    run: str
    criterion: str
    machine: str
    points: tuple[Point, ...]
    row: Criterion | None
    """The row as it was last; None for the check as a whole."""
    shifts: tuple[Shift, ...] = ()
    """`at` counts among `points`."""
    explained: tuple[int, ...] = ()
    """Where else a flip is told of: the check as a whole flips with its rows."""

    @property
    def values(self) -> list[float]:
        """The figures that there are."""
        return [point.value for point in self.points if point.value is not None]

    @property
    def flips(self) -> list[int]:
        """The points whose status is another one than the point's before."""
        pairs = itertools.pairwise(self.points)
        return [place for place, (before, after) in enumerate(pairs, 1) if before.status is not after.status]

    @property
    def flaky_flips(self) -> list[int]:
        """The flips that no marked change is near."""
        marked = [*(shift.at for shift in self.shifts), *self.explained]
        return [flip for flip in self.flips if all(abs(flip - at) > _NEAR for at in marked)]

    def is_worse(self, shift: Shift) -> bool | None:
        """Tell whether a change goes where the row fails; None where the row does not say."""
        if self.row is None or self.row.comparison not in ("<", "<=", ">", ">="):
            return None
        return (shift.after > shift.before) is (self.row.comparison in ("<", "<="))


@dataclass(frozen=True, kw_only=True)
class History:
    """Every series of many suites."""

    series: tuple[Series, ...]
    machines: Mapping[str, Machine]
    """By their labels."""
    tested: int
    """How many series could have a mark."""
    repeated: tuple[str, ...]
    """Outcomes that a folder has and an earlier one has, too, which count once."""
    mixed: tuple[tuple[Point, Point, Series], ...] = ()
    """Two runs of one series, the first of each series, that overlap in time: one machine would do both at once."""

    @property
    def changed(self) -> list[tuple[Series, Shift]]:
        """Every marked change, the largest ratio first."""
        found = [(series, shift) for series in self.series for shift in series.shifts]
        return sorted(found, key=lambda pair: -_size(pair[1]))

    @property
    def flaky(self) -> list[Series]:
        """Every series with a flip that no change explains, the most flips first."""
        found = [series for series in self.series if series.flaky_flips]
        return sorted(found, key=lambda series: -len(series.flaky_flips))


def _size(shift: Shift) -> float:
    return abs(math.log(shift.ratio)) if shift.ratio is not None and shift.ratio > 0 else math.inf


def trace_history(visits: Sequence[Visit]) -> History:
    """Return every series of these suites, with its marks."""
    runs, machines, repeated = _collect(visits)
    found: list[Series] = []
    for (run, machine), points in runs.items():
        found += _make_series(run, machine, sorted(points, key=lambda point: point.when))
    tested = sum(can_shift(series.values) for series in found)
    alpha = ALPHA / max(1, tested)
    marked = [replace(series, shifts=_mark(series, alpha, _find_others(series, found))) for series in found]
    return History(
        series=tuple(_explain_wholes(marked)),
        machines=machines,
        tested=tested,
        repeated=tuple(repeated),
        mixed=tuple(_find_mixed(found)),
    )


def _find_mixed(found: Iterable[Series]) -> Iterator[tuple[Point, Point, Series]]:
    """Give the first two runs of each series that overlap in time. Hosts that are built alike have one label."""
    for series in found:
        if series.criterion == WHOLE:
            pairs = itertools.pairwise(series.points)
            overlapping = (pair for pair in pairs if pair[0].ended is not None and pair[1].when < pair[0].ended)
            yield from ((one, other, series) for one, other in itertools.islice(overlapping, 1))


Runs = dict[tuple[str, str], list[Point]]
"""The outcomes, as points of the check as a whole, by the run's name and the machine."""


def _collect(visits: Sequence[Visit]) -> tuple[Runs, dict[str, Machine], list[str]]:
    runs: Runs = {}
    known: dict[str, Machine] = {}
    repeated: list[str] = []
    for visit in visits:
        machines = find_machines(visit.outcomes)
        for name, outcome in visit.outcomes.items():
            run, host = split_host(name)
            label = host or visit.host or machines[name].label
            points = runs.setdefault((run, label), [])
            if any(point.outcome == outcome for point in points):
                repeated.append(f"{visit.label}/{name}")
                continue
            known[label] = machines[name]
            points.append(Point(folder=visit.label, outcome=outcome, status=outcome.status, value=None, threshold=None))
    return runs, known, repeated


def _make_series(run: str, machine: str, wholes: Sequence[Point]) -> Iterator[Series]:
    yield Series(run=run, criterion=WHOLE, machine=machine, points=tuple(wholes), row=None)
    names = dict.fromkeys(row.name for point in wholes for row in point.outcome.criteria)
    rows = [{row.name: row for row in point.outcome.criteria} for point in wholes]
    for name in names:
        there = [(point, found[name]) for point, found in zip(wholes, rows, strict=True) if name in found]
        points = tuple(
            replace(point, status=row.status, value=_number(row.observed), threshold=_number(row.threshold))
            for point, row in there
        )
        yield Series(run=run, criterion=name, machine=machine, points=points, row=there[-1][1])


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _find_others(series: Series, found: Iterable[Series]) -> list[list[float]]:
    """Return the figures of the same row on other machines."""
    row = (series.run, series.criterion)
    return [other.values for other in found if other is not series and (other.run, other.criterion) == row]


def _mark(series: Series, alpha: float, others: Sequence[Sequence[float]]) -> tuple[Shift, ...]:
    places = [place for place, point in enumerate(series.points) if point.value is not None]
    return tuple(replace(shift, at=places[shift.at]) for shift in find_shifts(series.values, alpha, others))


def _explain_wholes(found: Sequence[Series]) -> Iterator[Series]:
    """Give the series; those of whole checks with the places where a row of theirs has a mark or flips."""
    marks: dict[tuple[str, str], set[int]] = {}
    for series in found:
        at = [*(shift.at for shift in series.shifts), *(series.flips if series.criterion != WHOLE else ())]
        outcomes = {id(series.points[place].outcome) for place in at}
        marks.setdefault((series.run, series.machine), set()).update(outcomes)
    for series in found:
        near = marks.get((series.run, series.machine), set()) if series.criterion == WHOLE else set()
        yield replace(
            series, explained=tuple(at for at, point in enumerate(series.points) if id(point.outcome) in near)
        )


def tell_differences(before: Outcome, after: Outcome) -> list[str]:
    """Return what else changed between two runs: parameters, commits, driver, packages; each in a clause."""
    told = [f"{name} {_tell(was)} → {_tell(now)}" for name, was, now in _differ(_facts(before), _facts(after))]
    return told[:_MOST_TOLD] + ([f"and {len(told) - _MOST_TOLD} more"] if len(told) > _MOST_TOLD else [])


def _facts(outcome: Outcome) -> dict[str, object]:
    environment = outcome.environment
    facts: dict[str, object] = {f"parameter {name}": value for name, value in flatten(outcome.params)}
    own, system = environment.get("source"), (environment.get("system") or {}).get("source")
    for what, source in (("commit", own), ("system's commit", system if system != own else None)):
        if source:
            facts[what] = str(source.get("commit"))[:7] + ("+" if source.get("dirty") else "")
    facts["driver"] = (environment.get("gpu") or {}).get("driver")
    facts |= {name: environment.get(name) for name in _FACTS}
    facts |= dict(environment.get("packages") or {})
    return facts


def _differ(before: Mapping[str, object], after: Mapping[str, object]) -> Iterable[tuple[str, object, object]]:
    names = dict.fromkeys([*before, *after])
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def _tell(value: object) -> str:
    return "unknown" if value is None else f"{value!s:.60}"
