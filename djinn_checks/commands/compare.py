"""`djinn-checks compare`: two finished suites side by side."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from djinn_checks.errors import IncompleteError
from djinn_checks.report.suite.no_suite import say_no_suite
from djinn_checks.units import format_seconds
from djinn_checks.visible import make_visible

if TYPE_CHECKING:
    from djinn_checks.commands import Commands
    from djinn_checks.outcome import Observed
    from djinn_checks.report.suite.compare import Change

_FILE_COLUMNS = 140
"""Width of a comparison that goes to a file or a pipe."""


def add_compare(commands: Commands) -> None:
    """Add `compare` to the commands of a parser."""
    compare = commands.add_parser("compare", help="lay two finished suites side by side")
    compare.add_argument("old", type=Path)
    compare.add_argument("new", type=Path)
    compare.add_argument("--all", action="store_true", help="list what stayed, too")
    compare.add_argument("--html", type=Path, metavar="FILE", help="write the comparison as a self-contained page, too")
    compare.set_defaults(command=_compare)


def _compare(options: argparse.Namespace) -> int:
    from djinn_checks.errors import RunnerError
    from djinn_checks.report.suite.compare import compare_suites, summarize_changes
    from djinn_checks.report.suite.compare_page import render_comparison
    from djinn_checks.suite.files import read_finished

    old, new = (read_finished(folder) for folder in (options.old, options.new))
    for folder, suite in ((options.old, old), (options.new, new)):
        if not suite.outcomes and not suite.unreadable:
            raise RunnerError(say_no_suite(folder))
    unreadable = (old.unreadable, new.unreadable)
    rows = compare_suites(old.outcomes, new.outcomes, unreadable)
    shown = rows if options.all else [row for row in rows if row.differs or row.moved]
    if shown:
        _print_changes(shown, (options.old, options.new))
    if options.html:
        names = (str(options.old), str(options.new))
        _write(options.html, render_comparison(names, old.outcomes, new.outcomes, unreadable))
    print(summarize_changes(rows))
    if len(shown) < len(rows):
        print(f"{len(rows) - len(shown)} rows stayed and are not listed; --all lists them.")
    problems = [f"{folder}: {why}" for folder, suite in ((options.old, old), (options.new, new))
                for why in suite.unreadable.values()]  # fmt: skip
    if problems:
        raise IncompleteError(problems, ())
    return 1 if any(row.differs for row in rows) else 0


def tell_quantity(value: Observed, unit: str) -> str:
    """Return a value with its unit, and a time as a person says it: 26 ms."""
    from djinn_checks.outcome import format_quantity

    if unit == "s" and isinstance(value, int | float) and 0 < value < math.inf:
        return format_seconds(value)
    return format_quantity(value, unit)


def _print_changes(rows: Sequence[Change], folders: tuple[Path, Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("check", "criterion", *(make_visible(str(folder)) for folder in folders), "new / old")
    for column in table.columns:
        column.overflow = "fold"  # a name that is cut cannot be looked for
    for row in rows:
        sides = (
            f"{status or ('cannot be read' if torn else 'absent')} "
            f"{'' if value is None else tell_quantity(value, row.unit)}"
            for status, value, torn in zip(
                (row.old, row.new), (row.old_value, row.new_value), row.unreadable, strict=True
            )
        )
        ratio = "" if row.ratio is None else f"{row.ratio:.4g}"
        style = "bold" if row.differs else "yellow" if row.moved else "dim" if not row.required else ""
        told = map(make_visible, (row.name, row.criterion or "the whole check", *sides, ratio))
        table.add_row(*told, style=style)
    Console(width=None if sys.stdout.isatty() else _FILE_COLUMNS).print(table, markup=False)


def _write(file: Path, page: str) -> None:
    from djinn_checks.errors import RunnerError
    from djinn_checks.outcome import write_atomically

    try:
        write_atomically(file, page)
    except OSError as error:
        raise RunnerError(f"{file}: cannot be written ({error.strerror}); choose another with --html") from error
