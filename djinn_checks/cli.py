"""The command line: arguments and exit codes. All work is done elsewhere."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from djinn_checks.argument_types import seconds, whole_seconds
from djinn_checks.checks.plan import add_plan_command
from djinn_checks.devices import DEVICE_NAMES
from djinn_checks.errors import DjinnChecksError, IncompleteError
from djinn_checks.loading import uncollected
from djinn_checks.outcome import Status
from djinn_checks.server.arguments import add_serve_arguments
from djinn_checks.server.options import ServeOptions
from djinn_checks.visible import make_visible

if TYPE_CHECKING:
    from rich.table import Table

    from djinn_checks.outcome import Outcome
    from djinn_checks.report.suite.compare import Change

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_CODES = """exit codes:
  0  nothing failed (INCONCLUSIVE counts as not failed, unless --strict)
  1  a check is FAIL
  2  the command line or a params file is wrong; nothing ran
  3  a check is INCONCLUSIVE, under --strict
  4  a check is ERROR: it crashed, timed out or was killed
  5  part of a folder, or what is printed, could not be read or written; all else is done
  6  djinn-checks itself crashed, which says nothing about any check
130  the suite was told to stop, by Ctrl-C or a signal; the check that this hit is ERROR, finished ones are kept
preflight: 0 if nothing is missing, 1 otherwise
faults: 1 if one escapes, or a clean run raises an alarm; 3 if a clean run has no verdict
compare: 1 if a status differs or a suite lacks one
plausible: 0 if the figure is possible, 1 if it is impossible, 3 if that is not decidable
"""
_INCOMPLETE, _CRASHED = 5, 6
_UNWRITTEN = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Why nothing more can be printed: nobody reads it, or the disk that it goes to is full or broken."""
_FILE_COLUMNS = 140
"""Width of a comparison that goes to a file or a pipe."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that a terminal cannot show ends nothing
    options = _parser().parse_args(arguments)
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # nohup means what it says
            signal.signal(ending, _interrupt)
    try:
        code = int(options.command(options))
        sys.stdout.flush()  # what the code stands for has been said by then
        return code
    except IncompleteError as error:
        for line in error.done:
            print(make_visible(line))
        print(make_visible(f"djinn-checks: {error}; all else is done"), file=sys.stderr)
        return _INCOMPLETE
    except DjinnChecksError as error:
        print(make_visible(f"djinn-checks: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("djinn-checks: interrupted; finished checks are kept", file=sys.stderr)
        return 130
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITTEN:
            return _crashed()
        _let_go_of_output()
        print(f"djinn-checks: {error.strerror}, where it writes or prints; not all is done", file=sys.stderr)
        return _INCOMPLETE
    except Exception:
        return _crashed()


def _crashed() -> int:
    print(make_visible(traceback.format_exc()), end="", file=sys.stderr)
    print("djinn-checks: crashed, which it should not; please report the lines above", file=sys.stderr)
    return _CRASHED


def _let_go_of_output() -> None:
    """Have what is printed from here on, and what the interpreter still writes at its end, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Treat SIGTERM and a closed terminal like Ctrl-C, so that running kernels are ended."""
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="djinn-checks",
        description="Decide whether streamed weights, a full PCIe link and a sleeping KV cache are what they claim.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"djinn-checks {version('djinn-checks')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    preflight = commands.add_parser(
        "preflight", help="look at what the PCIe check needs of this machine, and measure pinned bandwidth on every GPU"
    )
    preflight.set_defaults(command=_preflight)
    faults = commands.add_parser("faults", help="plant defects, and see that the checks catch them on this machine")
    faults.add_argument("checks", nargs="*", metavar="check", help="only those of these: logits, pcie, agents, host")
    faults.add_argument("--fault", action="append", default=[], metavar="NAME", help="only this one")
    faults.add_argument("--list", action="store_true", help="print their names and what each breaks; plant none")
    faults.add_argument("--clean", type=int, default=3, metavar="N", help="runs of each check without a fault (3)")
    faults.add_argument("--doses", action="store_true", help="smaller doses too, for the smallest that is caught")
    faults.add_argument("--device", default="auto", help=DEVICE_NAMES)
    faults.set_defaults(command=_faults)
    serve = commands.add_parser("serve", help="serve a model to agents that sleep and wake")
    add_serve_arguments(serve)
    serve.set_defaults(command=_serve)
    compare = commands.add_parser("compare", help="lay two finished suites side by side")
    compare.add_argument("old", type=Path)
    compare.add_argument("new", type=Path)
    compare.add_argument("--all", action="store_true", help="list what stayed, too")
    compare.add_argument("--html", type=Path, metavar="FILE", help="write the comparison as a self-contained page, too")
    compare.set_defaults(command=_compare)
    slim = commands.add_parser("slim", help="take the figures, which the pages keep, out of a suite's notebooks")
    slim.add_argument("folder", type=Path)
    slim.set_defaults(command=_slim)
    results = commands.add_parser("results", help="print a finished suite's verdicts and figures as Markdown")
    results.add_argument("folder", type=Path)
    results.set_defaults(command=_results)
    plausible = commands.add_parser("plausible", help="say whether a published figure can be; needs no GPU")
    plausible.add_argument("file", type=Path, help="YAML: the claim, weights, what stays on the device, link and time")
    plausible.set_defaults(command=_plausible)
    add_plan_command(commands)
    render = commands.add_parser("render", help="rebuild the HTML of a finished suite, without torch")
    render.add_argument("folder", type=Path)
    render.set_defaults(command=_render)
    return parser


def _add_run(commands: Commands) -> None:
    run = commands.add_parser(
        "run", help="run a suite", epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    run.add_argument("suite", type=Path, help="folder of params files, for example params/smoke, or one such file")
    run.add_argument(
        "--only", action="append", default=[], metavar="CHECK", help="run this check or file.yaml alone (repeatable)"
    )
    run.add_argument(
        "--set", action="append", default=[], dest="given", metavar="NAME=VALUE",
        help="give a parameter in place of what the files say, to each check that has it (repeatable): device=cuda:1",
    )  # fmt: skip
    run.add_argument("--out", type=Path, help="where reports go (default: reports/<name of the suite>)")
    limits = run.add_argument_group("time limits, in place of the suite's own (suite.yaml); what runs over is ERROR")
    limits.add_argument("--timeout", type=seconds, metavar="S", help="for each check (3600)")
    limits.add_argument("--cell-timeout", type=whole_seconds, metavar="S", help="for each cell of a notebook (none)")
    limits.add_argument(
        "--suite-timeout",
        type=seconds,
        metavar="S",
        help="for all checks together (none); those that it leaves no time for are not started",
    )
    run.add_argument("--strict", action="store_true", help="exit 3 if a check is INCONCLUSIVE")
    run.add_argument("--resume", action="store_true", help="run what is missing, an ERROR, or of other params")
    run.set_defaults(command=_run)


def _serve(options: argparse.Namespace) -> int:
    with uncollected():
        from djinn_checks.server.serve import serve

    values = {name: value for name, value in vars(options).items() if name != "command"}
    with contextlib.suppress(KeyboardInterrupt):  # it has ended its requests and let go of its memory by then
        serve(ServeOptions(**values))
    return 0


def _run(options: argparse.Namespace) -> int:
    from djinn_checks.run_command import run_and_print

    given = ("timeout_s", "cell_timeout_s", "suite_timeout_s")
    results = run_and_print(
        options.suite,
        options.out,
        only=options.only,
        given=options.given,
        resume=options.resume,
        limits={name: getattr(options, name.removesuffix("_s")) for name in given},
    )
    return exit_code([result.outcome.status for result in results], strict=options.strict)


def exit_code(statuses: Sequence[Status], *, strict: bool) -> int:
    """Return the exit code for the statuses of a suite; see EXIT_CODES."""
    if Status.ERROR in statuses:
        return 4
    if Status.FAIL in statuses:
        return 1
    return 3 if strict and Status.INCONCLUSIVE in statuses else 0


def _preflight(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from djinn_checks.instruments.preflight_all import look_at_all

    rows = look_at_all()
    table = Table("", "what", "found", "wanted", "remedy", show_lines=True)
    for row in rows:
        word, style = {True: ("ok", "green"), False: ("missing", "bold red"), None: ("unknown", "yellow")}[row.ok]
        said = (Text(make_visible(text)) for text in (row.found, row.wanted, row.remedy))
        table.add_row(Text(word, style=style), row.name, *said)
    Console().print(table)
    return 1 if any(row.ok is False for row in rows) else 0


def _faults(options: argparse.Namespace) -> int:
    from rich.console import Console

    from djinn_checks.errors import ParamsError
    from djinn_checks.faults.check import check_faults
    from djinn_checks.params import FaultsParams
    from djinn_checks.report.faults.tables import list_faults

    if options.list:
        return _list_faults(options)
    if len(options.fault) > 1:  # --only of `run` may be repeated, so somebody will try
        raise ParamsError(f"--fault: expected one name, got {', '.join(options.fault)}; run the command once for each")
    console = Console()
    params = FaultsParams.create(
        of=options.checks,
        fault=options.fault[0] if options.fault else "",
        clean_runs=options.clean,
        doses=options.doses,
        device=options.device,
    )
    outcome = check_faults(
        params, progress=lambda name, done, total: console.print(f"{done}/{total} {name}", highlight=False)
    )
    table = _table_of_names("fault", "verdict", "caught by", "also alarmed")
    for row in list_faults(outcome):
        others = [name for name in row["alarms"] if name != row["caught_by"]]
        table.add_row(*map(make_visible, (row["name"], row["verdict"], row["caught_by"], ", ".join(others))))
    console.print(table, markup=False)
    if options.doses:
        console.print(_floors_table(outcome), markup=False)
    console.print(make_visible(f"{outcome.status}: {outcome.summary}"), highlight=False, markup=False)
    return exit_code([outcome.status], strict=True)


def _list_faults(options: argparse.Namespace) -> int:
    from djinn_checks.devices import choose_device
    from djinn_checks.faults.base import find_faults

    device = choose_device(options.device)
    for fault in find_faults(options.checks, options.fault[0] if options.fault else None):
        where = "" if fault.applies(device) else f"  [not on {device.type}]"
        print(make_visible(f"{fault.check}  {fault.name}  {fault.breaks}{where}"))
    return 0


def _table_of_names(*titles: str) -> Table:
    """Return a table that breaks what is too long and cuts nothing: names are given back to `--fault`."""
    from rich.table import Table

    table = Table(show_lines=True)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _floors_table(outcome: Outcome) -> Table:
    from djinn_checks.report.faults.tables import list_floors

    table = _table_of_names("fault", "criterion", "smallest dose caught", "largest that escaped", "unit")
    for row in list_floors(outcome):
        table.add_row(*row)
    return table


def _compare(options: argparse.Namespace) -> int:
    from djinn_checks.errors import RunnerError
    from djinn_checks.report.suite.compare import compare_suites, summarize_changes
    from djinn_checks.report.suite.compare_page import render_comparison
    from djinn_checks.suite.files import read_finished

    old, new = (read_finished(folder) for folder in (options.old, options.new))
    for folder, suite in ((options.old, old), (options.new, new)):
        if not suite.outcomes and not suite.unreadable:
            raise RunnerError(f"{folder}: expected <check>.outcome.json files of a finished suite, found none")
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


def _print_changes(rows: Sequence[Change], folders: tuple[Path, Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    from djinn_checks.outcome import format_quantity

    table = Table("check", "criterion", *(make_visible(str(folder)) for folder in folders), "new / old")
    for column in table.columns:
        column.overflow = "fold"  # a name that is cut cannot be looked for
    for row in rows:
        sides = (
            f"{status or ('cannot be read' if torn else 'absent')} "
            f"{'' if value is None else format_quantity(value, row.unit)}"
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


def _render(options: argparse.Namespace) -> int:
    from djinn_checks.suite.folder import render_folder

    for path in render_folder(options.folder):
        print(make_visible(str(path)))
    return 0


def _slim(options: argparse.Namespace) -> int:
    from djinn_checks.suite.folder import slim_notebooks
    from djinn_checks.units import format_bytes

    print(make_visible(f"{options.folder}: {format_bytes(slim_notebooks(options.folder))} less"))
    return 0


def _results(options: argparse.Namespace) -> int:
    from djinn_checks.report.suite.results import render_results
    from djinn_checks.suite.files import read_finished

    suite = read_finished(options.folder)
    print(make_visible(render_results(options.folder.as_posix(), suite.outcomes, suite.unreadable)), end="")
    if suite.unreadable:
        raise IncompleteError([f"{options.folder}: {why}" for why in suite.unreadable.values()], ())
    return 0


def _plausible(options: argparse.Namespace) -> int:
    from djinn_checks.plausible import Answer, judge_figure, read_figure

    found = judge_figure(read_figure(options.file))
    print(make_visible("\n".join(found.lines)))
    return {Answer.POSSIBLE: 0, Answer.IMPOSSIBLE: 1, Answer.NOT_DECIDABLE: 3}[found.answer]
