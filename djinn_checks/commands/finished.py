"""`render`, `slim` and `results`: what is done with a finished suite."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from djinn_checks.commands.gate import Gate, add_gate_options, read_reports
from djinn_checks.errors import IncompleteError
from djinn_checks.visible import make_visible

if TYPE_CHECKING:
    from djinn_checks.commands import Commands


def add_finished(commands: Commands) -> None:
    """Add `slim`, `results` and `render` to the commands of a parser."""
    slim = commands.add_parser("slim", help="take the figures, which the pages keep, out of a suite's notebooks")
    slim.add_argument("folder", type=Path)
    slim.set_defaults(command=_slim)
    results = commands.add_parser("results", help="print a finished suite's verdicts and figures as Markdown")
    results.add_argument("folder", type=Path)
    results.add_argument("--strict", action="store_true", help="what is INCONCLUSIVE stops a change, in those files")
    add_gate_options(results)
    results.set_defaults(command=_results)
    render = commands.add_parser("render", help="rebuild the HTML of a finished suite, without torch")
    render.add_argument("folder", type=Path)
    render.set_defaults(command=_render)


def _slim(options: argparse.Namespace) -> int:
    from djinn_checks.suite.folder import slim_notebooks
    from djinn_checks.units import format_bytes

    print(make_visible(f"{options.folder}: {format_bytes(slim_notebooks(options.folder))} less"))
    return 0


def _results(options: argparse.Namespace) -> int:
    from djinn_checks.report.suite.results import render_results
    from djinn_checks.suite.files import read_finished

    suite = read_finished(options.folder)
    folder = Path(os.path.relpath(options.folder)).as_posix()
    print(make_visible(render_results(folder, suite.outcomes, suite.unreadable)), end="")
    if options.junit or options.summary:
        name = options.folder.resolve().name
        with Gate(name, junit=options.junit, summary=options.summary, strict=options.strict) as gate:
            for report in read_reports(options.folder):
                gate.add(report)
    if suite.unreadable:
        raise IncompleteError([f"{options.folder}: {why}" for why in suite.unreadable.values()], ())
    return 0


def _render(options: argparse.Namespace) -> int:
    from djinn_checks.suite.folder import render_folder

    for path in render_folder(options.folder):
        print(make_visible(str(path)))
    return 0
