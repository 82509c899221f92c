"""An outcome's file by itself: its schema, each row's status, the check's from its rows, rows against measurements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from djinn_checks.bounded import parse_json, read_text
from djinn_checks.errors import OutcomeError
from djinn_checks.outcome import SCHEMA, Criterion, Outcome, Status, judge
from djinn_checks.outcome.expected import expect
from djinn_checks.outcome.record import list_problems
from djinn_checks.verify.finding import Finding, agrees, believed, disagrees, unreadable

_WORDS = "the check's word: nothing in the folder tells whether it is so"


def verify_outcome(file: Path) -> tuple[Outcome | None, list[Finding]]:
    """Return the outcome, if it can be read and agrees with itself, and what was found."""
    try:
        outcome = Outcome.load(file)
    except OutcomeError as error:
        return None, [*_explain(file, str(error).removeprefix(f"{file}: "))]
    return outcome, [*_say(file.name, outcome)]


def _explain(file: Path, told: str) -> Iterator[Finding]:
    """Tell an outcome that contradicts itself, of which each place is named, from one that cannot be read."""
    try:
        data = parse_json(read_text(file))
        problems = list_problems(data) if isinstance(data, dict) and data.get("schema") == SCHEMA else []
    except (OSError, ValueError, OutcomeError):
        problems = []
    yield from (disagrees(file.name, "", problem) for problem in problems)
    if not problems:
        yield unreadable(file.name, "", told)


def _say(file: str, outcome: Outcome) -> Iterator[Finding]:
    yield agrees(file, "schema", SCHEMA)
    rows = outcome.criteria
    yield agrees(file, "status of each row", f"{len(rows)} rows, from observed, comparison, threshold and floor")
    if outcome.status is Status.ERROR:
        yield believed(file, "status", "ERROR, by what stopped it; it has no rows to derive it from")
    else:
        yield agrees(file, "status", f"{outcome.status}, from its required rows")
    if expect(outcome.check, outcome.params, outcome.measurements) is None:
        yield believed(file, "which rows", f"this version does not know a check {outcome.check!r}")
    elif outcome.status is not Status.ERROR:
        yield agrees(file, "which rows", "those that the check always has, against the thresholds of its parameters")
    wrong = [row for row in rows if not _gives_its_reason(row)]
    yield from (
        disagrees(file, row.name, f"its reason, {row.reason[:80]!r}, does not say {_reason(row)!r}") for row in wrong
    )
    yield believed(file, "environment, timings, started_at", _WORDS)
    yield believed(file, "summary, and each row's title and evidence", f"words, {_WORDS}")
    unsaid = [row.name for row in rows if row.instrument is None and row.status is Status.INCONCLUSIVE]
    if unsaid:
        told = ", ".join(unsaid[:3])
        yield believed(file, told, "undecided for a floor or an instrument that its version did not name")


def _gives_its_reason(row: Criterion) -> bool:
    """Tell whether a row that failed gives the numbers of the row as the reason."""
    return row.status is not Status.FAIL or row.reason.startswith(_reason(row))


def _reason(row: Criterion) -> str:
    again = judge(
        row.name, row.title, row.observed, row.comparison, row.threshold, unit=row.unit, evidence="", floor=row.floor
    )
    return again.reason
