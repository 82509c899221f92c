"""What a CI is told of a suite: JUnit's XML, a Markdown summary and annotations; while it runs, and of a finished one.

The XML is written before the first check, and anew after each, whole or not at all. Until a check has come to its end
it is an error there, so a suite that is stopped, killed or never starts leaves no green file, and none of another day.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from djinn_checks.commands.workflow_log import give_commands, runs_on_github
from djinn_checks.errors import DjinnChecksError, IncompleteError, RunnerError
from djinn_checks.outcome import write_atomically
from djinn_checks.visible import make_visible

if TYPE_CHECKING:
    from types import TracebackType

    from djinn_checks.report.gate.reports import Report

_OF_A_STEP = 1024 * 1024
"""Bytes that GitHub takes as the summary of a step; of more it takes nothing."""
_LEAST = 2_000
_PENDING = "the suite was stopped, killed or did not start before this check had come to its end"


def add_gate_options(parser: argparse.ArgumentParser) -> None:
    """Add what both `run` and `results` are asked for."""
    gate = parser.add_argument_group("for a CI; where GitHub runs this, annotations are printed, too")
    gate.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit's XML: a test case for each criterion")
    gate.add_argument(
        "--summary", type=Path, metavar="FILE",
        help="write a Markdown summary; what $GITHUB_STEP_SUMMARY names is appended to",
    )  # fmt: skip


class Gate:
    """Keeps the files of a gate as a suite goes on."""

    def __init__(self, title: str, *, junit: Path | None, summary: Path | None, strict: bool) -> None:
        """Begin with a suite of which nothing is known but its name.

        Args:
            title: of the suite.
            junit: where the XML goes; None: nowhere.
            summary: where the Markdown goes, at the end; None: nowhere.
            strict: whether what is not decided stops a change.

        Raises:
            RunnerError: both are one file, of which the later would leave nothing of the other.
        """
        if junit and summary and not _is_stream(junit) and _is_same(junit, str(summary)):
            raise RunnerError(f"--junit and --summary: both are {junit}; give each a file of its own")
        self._title, self._junit, self._summary, self._strict = title, junit, summary, strict
        self._reports: dict[str, Report] = {}
        self._problems: dict[Path, str] = {}

    def __enter__(self) -> Gate:
        self._write_junit(pending=_PENDING)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Write all of it.

        Raises:
            IncompleteError: a file cannot be written; unless the suite itself ended with an error.
        """
        stopped = _tell_end(error)
        self._write_junit(pending=stopped, at_end=True)
        if self._summary:
            self._write_summary(self._summary, stopped)
        self._annotate(stopped)
        if error is None and self._problems:
            raise IncompleteError(self._problems.values(), ())
        for problem in self._problems.values():
            print(make_visible(f"djinn-checks: {problem}"), file=sys.stderr)

    def expect(self, reports: Iterable[Report]) -> None:
        """Take in which reports there will be; none of them has a verdict yet."""
        self._reports |= {report.name: replace(report, why=report.why or _PENDING) for report in reports}
        self._write_junit()

    def add(self, report: Report) -> None:
        """Take in a report."""
        known = self._reports.get(report.name)
        asked_in = report.asked_in or (known.asked_in if known else "")
        self._reports[report.name] = replace(report, asked_in=asked_in)
        self._write_junit()

    def _write_junit(self, pending: str = "", *, at_end: bool = False) -> None:
        if self._junit is None or (_is_stream(self._junit) and not at_end):
            return
        from djinn_checks.report.gate.junit import render_junit
        from djinn_checks.report.gate.reports import Report, mark_rivals

        reports = mark_rivals(self._reports.values())
        if pending and all(report.outcome is not None for report in reports):
            reports.append(Report(name="djinn-checks", outcome=None, why=pending))
        text = render_junit([_seen_from(report, Path()) for report in reports], name=self._title, strict=self._strict)
        self._write(self._junit, text, "--junit")

    def _write_summary(self, file: Path, stopped: str) -> None:
        from djinn_checks.report.gate.reports import mark_rivals
        from djinn_checks.report.gate.summary import MOST_BYTES, render_summary

        is_steps = _is_same(file, os.environ.get("GITHUB_STEP_SUMMARY", ""))
        try:
            before = file.read_bytes() if is_steps and file.is_file() else b""
        except OSError as error:
            self._problems[file] = _say_unwritten(file, error, "--summary")
            return
        most = min(MOST_BYTES, _OF_A_STEP - len(before))
        if most < _LEAST:
            self._problems[file] = f"{file}: a step's summary has at most 1 MiB, and no room is left; not written"
            return
        text = render_summary(
            [_seen_from(report, file.parent) for report in mark_rivals(self._reports.values())],
            title=self._title, linked=not is_steps, most_bytes=most, problem=stopped,
        )  # fmt: skip
        apart = "\n" if before and not before.endswith(b"\n") else ""
        text = f"{apart}{text}"
        self._write(file, text, "--summary", append=is_steps)

    def _annotate(self, stopped: str) -> None:
        if not runs_on_github():
            return
        from djinn_checks.report.gate.annotations import list_annotations
        from djinn_checks.report.gate.reports import mark_rivals

        reports = [_in_workspace(report) for report in mark_rivals(self._reports.values())]
        give_commands(list_annotations(reports, strict=self._strict, problem=stopped))

    def _write(self, file: Path, text: str, option: str, *, append: bool = False) -> None:
        try:
            if append or _is_stream(file):
                sys.stdout.flush()  # it may be the same
                with file.open("a", encoding="utf-8", errors="backslashreplace") as opened:
                    opened.write(text)
            else:
                write_atomically(Path(os.path.realpath(file)), text)
            self._problems.pop(file, None)
        except (OSError, ValueError) as error:
            self._problems[file] = _say_unwritten(file, error, option)


def _is_stream(file: Path) -> bool:
    """Tell whether a file is a pipe, a terminal or the like, in whose place no other can be put."""
    try:
        return file.parts[1:2] in (("dev",), ("proc",)) or file.is_fifo() or file.is_char_device()
    except OSError:  # it cannot be looked at, and so not written either: that is said when it is tried
        return False


def _say_unwritten(file: Path, error: Exception, option: str) -> str:
    return f"{file}: cannot be written ({getattr(error, 'strerror', None) or error}); choose another with {option}"


def _tell_end(error: BaseException | None) -> str:
    """Return what ended a suite before its end; empty if nothing did."""
    if error is None:
        return ""
    if isinstance(error, KeyboardInterrupt):
        return "the suite was told to stop, by Ctrl-C or a signal"
    if isinstance(error, DjinnChecksError):
        return f"the suite did not run, or not to its end: {error}"
    return f"djinn-checks itself ended with {type(error).__name__}: {error}"


def _seen_from(report: Report, folder: Path) -> Report:
    """Return a report whose paths are as they are called from a folder."""
    return replace(report, page=_relative(report.page, folder), asked_in=_relative(report.asked_in, folder))


def _relative(path: str, folder: Path) -> str:
    return Path(os.path.relpath(path, folder or Path())).as_posix() if path else ""


def _in_workspace(report: Report) -> Report:
    """Return a report whose error's file is as GitHub calls it: from the checkout's root, if it lies in there."""
    failure = report.outcome.failure if report.outcome else None
    workspace = os.environ.get("GITHUB_WORKSPACE", "")
    if failure is None or report.outcome is None or not failure.file or not workspace:
        return report
    path = os.path.relpath(os.path.realpath(failure.file), os.path.realpath(workspace))
    file = failure.file if path.startswith(os.pardir) else Path(path).as_posix()
    return replace(report, outcome=replace(report.outcome, failure=replace(failure, file=file)))


def _is_same(file: Path, other: str) -> bool:
    return bool(other) and os.path.realpath(file) == os.path.realpath(other)


def read_reports(folder: Path) -> Sequence[Report]:
    """Return the reports of a finished suite, those that cannot be read among them."""
    from djinn_checks.report.gate.reports import Report
    from djinn_checks.suite.files import read_finished

    finished = read_finished(folder)
    pages = {name: folder / f"{name}.html" for name in finished.outcomes}
    read = [
        Report(name=name, outcome=outcome, page=str(pages[name]) if pages[name].is_file() else "")
        for name, outcome in finished.outcomes.items()
    ]
    return [*read, *(Report(name=name, outcome=None, why=why) for name, why in finished.unreadable.items())]
