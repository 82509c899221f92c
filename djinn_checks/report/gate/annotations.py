"""Workflow commands of GitHub: one annotation for each report that stops a change, or did not decide.

A step shows ten errors and ten warnings at most, so a report has one, not one for each row, and the tenth says how
many more there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.gate.reports import Report, ask, clip, list_unmet, see
from djinn_checks.report.summary import tell
from djinn_checks.visible import make_visible

MOST = 10
"""Annotations of a kind that a step may have."""
_LONGEST_MESSAGE, _LONGEST_TITLE = 3_000, 200
_MOST_ROWS = 8


class _Annotation(NamedTuple):
    level: str
    title: str
    message: str
    file: str = ""
    line: int | None = None

    def write(self) -> str:
        properties = {"title": self.title}
        if self.file and self.line:
            properties = {"file": self.file, "line": str(self.line), **properties}
        told = ",".join(f"{name}={escape_property(value)}" for name, value in properties.items())
        return f"::{self.level} {told}::{escape_data(self.message)}"


def list_annotations(reports: Sequence[Report], *, strict: bool = False, problem: str = "") -> list[str]:
    """Return the commands, each a line.

    Args:
        strict: whether what is not decided stops a change: it is an error then, and a warning else.
        problem: why the suite did not come to its end; empty if it did.
    """
    stopped = _Annotation("error", "djinn-checks", clip(make_visible(problem), _LONGEST_MESSAGE))
    found = [stopped] if problem else []
    told = [report for report in reports if not report.rival and report.status not in (Status.PASS, Status.SKIP)]
    found += [_annotate(report, strict) for report in told]
    lines: list[str] = []
    for level in ("error", "warning"):
        of_level = [annotation for annotation in found if annotation.level == level]
        kept = of_level if len(of_level) <= MOST else of_level[: MOST - 1]
        lines += [annotation.write() for annotation in kept]
        if len(kept) < len(of_level):
            names = ", ".join(annotation.title for annotation in of_level[len(kept) :])
            more = f"{len(of_level) - len(kept)} more: {names}"
            lines.append(_Annotation(level, "djinn-checks", clip(more, _LONGEST_MESSAGE)).write())
    return lines


def _annotate(report: Report, strict: bool) -> _Annotation:
    undecided = report.status is Status.INCONCLUSIVE
    level = "warning" if undecided and not strict else "error"
    title = clip(make_visible(f"{report.name}: {report.status}"), _LONGEST_TITLE)
    if report.outcome is None:
        return _Annotation(level, title, clip(make_visible(report.why), _LONGEST_MESSAGE))
    message = clip(make_visible("\n".join(_lines(report.outcome))), _LONGEST_MESSAGE)
    failure = report.outcome.failure
    if failure is None:
        return _Annotation(level, title, message)
    return _Annotation(level, title, message, make_visible(failure.file), failure.line)


def _lines(outcome: Outcome) -> list[str]:
    rows = list_unmet(outcome)
    told = [f"{row.status} {row.name}: observed {see(row)}, asked for {ask(row)}: {row.reason}" for row in rows]
    more = [f"and {len(told) - _MOST_ROWS} more rows"] if len(told) > _MOST_ROWS else []
    return [tell(outcome), *told[:_MOST_ROWS], *more]


def escape_data(text: str) -> str:
    """Return text as the part behind the second `::` holds it; an older form of a command in it is spelled out."""
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return escaped.replace("##[", "##\\x5b")


def escape_property(text: str) -> str:
    """Return text as a property of a command holds it."""
    return escape_data(text).replace(":", "%3A").replace(",", "%2C")
