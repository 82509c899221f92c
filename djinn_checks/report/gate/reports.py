"""What a gate is told of each report of a suite, and how its rows count where they pass or stop a change."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from djinn_checks.outcome import Criterion, Outcome, Status, format_quantity, worst
from djinn_checks.report.suite.subjects import cast_runs

_WORDS = {"<": "less than ", "<=": "at most ", ">": "more than ", ">=": "at least ", "==": ""}


class Counts(enum.Enum):
    """How a row counts at a gate."""

    PASSED = "passed"
    FAILED = "failed"
    """It alone stops a change."""
    IGNORED = "ignored"
    """It is told with its reason, and stops nothing."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One report of a suite: a claim and its verdict, or why there is none."""

    name: str
    """Of the params file, the same in every run."""
    outcome: Outcome | None
    page: str = ""
    """Path of its page; empty if there is none."""
    asked_in: str = ""
    """Path of the params file, where that is known."""
    why: str = ""
    """Why there is no outcome: it cannot be read, or the suite has not come to it."""
    problem: str = ""
    """What of it could not be written beside its outcome, such as its page."""
    rival: bool = False
    """Whether it is of another system than what is under test: its verdict is told, and stops no change."""

    @property
    def status(self) -> Status:
        return Status.ERROR if self.outcome is None else self.outcome.status

    @property
    def seconds(self) -> float | None:
        """Wall time of the run, or of the check where only that is known; None where none is."""
        timings = self.outcome.timings if self.outcome else {}
        found = timings.get("run_s", timings.get("total_s"))
        return None if found is None else float(found)


def mark_rivals(reports: Iterable[Report]) -> list[Report]:
    """Return the reports, those of rivals marked, as the exit code and the front page tell them apart."""
    reports = list(reports)
    deciding = cast_runs({report.name: report.outcome for report in reports if report.outcome}).deciding
    return [replace(report, rival=report.outcome is not None and report.name not in deciding) for report in reports]


def decide_all(reports: Iterable[Report]) -> Status:
    """Return the verdict of a suite: the worst of what is under test."""
    return worst(report.status for report in reports if not report.rival)


def count_row(row: Criterion, *, strict: bool) -> Counts:
    """Return how a row counts. What stops a change here is what makes the exit code other than 0.

    Args:
        strict: whether what is not decided stops a change, as with `--strict`.
    """
    if row.status is Status.PASS:
        return Counts.PASSED
    stops = row.status is Status.FAIL or (strict and row.status is Status.INCONCLUSIVE)
    return Counts.FAILED if stops and row.required else Counts.IGNORED


def list_unmet(outcome: Outcome) -> Sequence[Criterion]:
    """Return the rows that do not hold, the worst first: FAIL, and those that a verdict needs and lacks."""
    return [
        row
        for row in outcome.failed_first
        if row.status is Status.FAIL or (row.required and row.status is Status.INCONCLUSIVE)
    ]


def ask(row: Criterion) -> str:
    """Return what a row asks for, in words; empty where it asks for nothing."""
    if row.threshold is None:
        return ""
    return f"{_WORDS[row.comparison]}{format_quantity(row.threshold, row.unit)}"


def see(row: Criterion) -> str:
    """Return what a row observed, in words."""
    return "unknown" if row.observed is None else format_quantity(row.observed, row.unit)


def explain(row: Criterion) -> str:
    """Return why a row does not hold, without the two values that stand beside it."""
    both = f"{see(row)}, expected {ask(row)}"
    return row.reason.removeprefix(both).removeprefix(": ") if row.reason.startswith(both) else row.reason


def clip(text: str, longest: int, *, keep_end: bool = False) -> str:
    """Return a text of so many characters at most, and how many are left out; they stand in the report.

    Args:
        keep_end: leave out the begin, as of a trace, in which the last line says most.
    """
    if len(text) <= longest:
        return text
    left = len(text) - longest
    return f"[{left:,} characters before] {text[-longest:]}" if keep_end else f"{text[:longest]} [{left:,} more]"
