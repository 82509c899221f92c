"""`djinn-checks history`: many finished suites over time."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from djinn_checks.commands.merge import split_label
from djinn_checks.errors import IncompleteError
from djinn_checks.report.suite.no_suite import say_no_suite
from djinn_checks.visible import make_visible

if TYPE_CHECKING:
    from djinn_checks.commands import Commands
    from djinn_checks.report.suite.history import Visit

_MOST_LINES = 20


def add_history(commands: Commands) -> None:
    """Add `history` to the commands of a parser."""
    history = commands.add_parser("history", help="show each criterion over many finished suites, and what changed")
    history.add_argument(
        "folders", nargs="+", metavar="[HOST=]FOLDER",
        help="finished suites, in any order; HOST tells hosts apart that are built alike",
    )  # fmt: skip
    history.add_argument(
        "--html", type=Path, metavar="FILE", help="write a self-contained page with every series drawn"
    )
    history.set_defaults(command=_history)


def _history(options: argparse.Namespace) -> int:
    from djinn_checks.errors import RunnerError
    from djinn_checks.outcome import write_atomically
    from djinn_checks.report.suite.history import trace_history
    from djinn_checks.report.suite.history_page import (
        render_history,
        summarize_history,
        tell_change,
        tell_flips,
        tell_mixed,
    )

    visits, problems = _read(options.folders)
    history = trace_history(visits)
    lines = [f"CHANGED  {tell_change(series, shift)}" for series, shift in history.changed]
    flaky = [f"FLAKY    {tell_flips(series)}" for series in history.flaky]
    mixed = [f"MIXED    {tell_mixed(*found)}" for found in history.mixed]
    said = [*_first(lines, "changes"), *_first(flaky, "flaky rows"), *_first(mixed, "series"),
            *summarize_history(history)]  # fmt: skip
    if again := len(history.repeated):
        said.append(f"{again} outcome{' stands' if again == 1 else 's stand'} in several folders and count once.")
    if options.html:
        try:
            write_atomically(options.html, render_history("History", history, problems))
        except OSError as error:
            message = f"{options.html}: cannot be written ({error.strerror}); choose another with --html"
            raise RunnerError(message) from error
        said.append(f"all on one page: {options.html}")
    if problems:
        raise IncompleteError(problems, said)
    for line in said:
        print(make_visible(line))
    return 0


def _first(lines: Sequence[str], what: str) -> list[str]:
    more = [f"and {len(lines) - _MOST_LINES} more {what}; --html shows all"] if len(lines) > _MOST_LINES else []
    return [*lines[:_MOST_LINES], *more]


def _read(folders: Sequence[str]) -> tuple[list[Visit], list[str]]:
    """Return every folder's outcomes, and what cannot be read.

    Raises:
        RunnerError: no folder holds an outcome.
    """
    from djinn_checks.errors import RunnerError
    from djinn_checks.report.suite.history import Visit
    from djinn_checks.suite.files import read_finished

    visits, problems = [], []
    for text in folders:
        host, folder = split_label(text)
        finished = read_finished(folder)
        if not finished.outcomes and not finished.unreadable:
            problems.append(say_no_suite(folder))
        problems += [f"{folder}: {why}" for why in finished.unreadable.values()]
        visits.append(Visit(label=folder.as_posix(), outcomes=finished.outcomes, host=host))
    if not any(visit.outcomes for visit in visits):
        raise RunnerError("; ".join(problems))
    return visits, problems
