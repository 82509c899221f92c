"""`djinn-checks run`: a suite is run, and told as it goes. On a terminal by a bar, in a pipe by lines at intervals."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from djinn_checks.commands.part import refuse_other_devices
from djinn_checks.report.gate.reports import Report
from djinn_checks.report.progress import Stage
from djinn_checks.report.suite.subjects import cast_runs
from djinn_checks.report.summary import tell
from djinn_checks.suite.given import read_given
from djinn_checks.suite.params_folder import read_limits, read_suite
from djinn_checks.suite.runner import Result, run_suite
from djinn_checks.suite.shards import choose_shard, read_shard
from djinn_checks.visible import make_visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from djinn_checks.commands.gate import Gate
    from djinn_checks.suite.execution import Job

INTERVAL_S = 15.0
"""Between two lines about a check that runs, where nobody can watch a bar."""
_LARGE = ("random:llama-2-7b", "random:llama-2-13b", "random:llama-2-70b")
_DRIVER = Path("/dev/nvidiactl")
STYLES = {"PASS": "green", "FAIL": "bold red", "INCONCLUSIVE": "yellow", "ERROR": "bold magenta", "SKIP": "dim"}


def run_and_print(
    suite: Path,
    out: Path | None,
    *,
    only: Sequence[str],
    given: Sequence[str],
    resume: bool,
    limits: Mapping[str, float | None],
    gate: Gate,
    shard: str | None = None,
    gpus: int = 0,
) -> list[Result]:
    """Run a suite, print what comes of it, and return the results.

    Args:
        suite: the folder, or one of its files.
        out: where reports go; None: `reports/<name of the suite>`.
        only: names of checks and files.
        given: `name=value`, in place of what the files say.
        limits: of time, in seconds; None: the suite's own.
        gate: told of each report as it comes.
        shard: `i/n`, the part of the jobs that is run; None: all of them.
        gpus: how many GPUs the jobs will see; 0: all of the host.

    Raises:
        ParamsError: a parameter cannot be right; nothing ran.
        RunnerError: the suite or the folder cannot be used.
    """
    from rich.console import Console

    jobs = read_suite(suite, only, read_given(given))
    suite_name = name_suite(suite)
    out = out or Path("reports") / suite_name
    console, results = Console(), []
    refuse_other_devices([job.resolved.get("device") for job in jobs], gpus)
    split = None
    if shard is not None:
        jobs, split = choose_shard(suite_name, jobs, read_shard(shard))
        said = f"shard {shard} of {split.suite}: {len(jobs)} of {len(split.jobs)} checks"
        console.print(make_visible(said), highlight=False, markup=False)
    _warn_of_large(console, jobs)
    expect_reports(gate, jobs)
    with telling(console, len(jobs)) as teller:
        for result in run_suite(
            jobs,
            out,
            limits=read_limits(suite).replace_by(**limits),
            resume=resume,
            part=bool(only) or suite.is_file() or split is not None,
            split=split,
            on_start=teller.start,
            on_progress=teller.tell,
        ):
            results.append(result)
            gate.add(report_to_gate(result))
            teller.end(tell_result(result))
    print_results(console, results, out)
    return results


def _warn_of_large(console: Console, jobs: Sequence[Job]) -> None:
    large = [job.name for job in jobs if str(job.resolved.get("model", "")).startswith(_LARGE)]
    if large and not _DRIVER.exists() and not any(job.resolved.get("trace") for job in jobs):
        told = (
            f"this machine has no NVIDIA driver, and {', '.join(large)} need a large GPU: expect hours, or no verdict"
        )
        console.print(make_visible(f"djinn-checks: {told}"), highlight=False, markup=False)


@contextlib.contextmanager
def bars(console: Console) -> Iterator[tuple[Progress, Callable[[str], None]]]:
    """Give what draws bars, where the console is a terminal, and what prints a line that stays above them."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:

        def say(line: str) -> None:
            bar.console.print(make_visible(line), highlight=False, markup=False, soft_wrap=not console.is_terminal)

        yield bar, say


@contextlib.contextmanager
def telling(console: Console, total: int) -> Iterator[Teller]:
    """Give what tells how far a suite is: a bar if the console is a terminal, else lines."""
    with bars(console) as (bar, say):
        task = bar.add_task("", total=1.0)

        def show(text: str, share: float) -> None:
            bar.update(task, description=make_visible(text), completed=share)

        yield Teller(total, show if console.is_terminal else None, say)


class Teller:
    """Tells which check runs, in which stage, and how far that is."""

    def __init__(
        self,
        total: int,
        show: Callable[[str, float], None] | None,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing done.

        Args:
            total: how many checks there are.
            show: draws a bar with a text; None: nobody watches, so lines are said at intervals.
            say: prints a line that stays.
        """
        self._total, self._show, self._say, self._clock = total, show, say, clock
        self._number = 0
        self._started = self._said = clock()

    def start(self, job: Job) -> None:
        """Tell that a check begins."""
        self._number += 1
        self._started = self._said = self._clock()
        if self._show is None:
            self._say(f"...  {self._place(job)}: starts")
        else:
            self._show(f"{self._place(job)}: starts", 0.0)

    def tell(self, job: Job, stage: Stage) -> None:
        """Tell the stage that a check is in."""
        now = self._clock()
        if self._show is not None:
            self._show(f"{self._place(job)}: {stage.describe()}", stage.share())
        elif now - self._said >= INTERVAL_S:
            self._said = now
            self._say(f"...  {self._place(job)}: {stage.describe()}, {now - self._started:.0f} s")

    def end(self, line: str) -> None:
        """Tell what came of a check."""
        self._say(line)

    def _place(self, job: Job) -> str:
        return f"{job.name} ({self._number} of {self._total})"


def name_suite(suite: Path) -> str:
    """Return the name of a suite: its folder's, also where one of its files was asked for."""
    return (suite.parent if suite.is_file() else suite).resolve().name


def expect_reports(gate: Gate, jobs: Sequence[Job]) -> None:
    """Tell a gate which reports there will be."""
    gate.expect(Report(name=job.name, outcome=None, asked_in=str(job.params_file)) for job in jobs)


def report_to_gate(result: Result) -> Report:
    """Return what a gate is told of a result."""
    return Report(
        name=result.job.name,
        outcome=result.outcome,
        page=str(result.html_file or ""),
        problem=result.report_problem,
    )


def tell_result(result: Result) -> str:
    """Return the line that stays of a check."""
    return f"{result.outcome.status}  {result.job.name}  {result.seconds:.0f} s  {_report(result)}"


def _report(result: Result) -> str:
    return result.report_problem or str(result.html_file)


def print_results(console: Console, results: Sequence[Result], out: Path) -> None:
    """Print what came of all checks as a table, and where it stands on one page."""
    from rich.table import Table
    from rich.text import Text

    cast = cast_runs({result.job.name: result.outcome for result in results})
    others = cast.rivals if cast.own else {}
    table = Table("check", "verdict", "what was found", "time", show_lines=True)
    for result in results:
        status = str(result.outcome.status)
        whose = "\nanother system" if result.job.name in others else ""
        table.add_row(
            Text(make_visible(result.job.name) + whose),
            Text(status, style=STYLES[status]),
            Text(make_visible(tell(result.outcome))),
            f"{result.seconds:.0f} s",
        )
    console.print(table)
    if others:
        told = f"under test: {', '.join(cast.subjects)}; verdicts of other systems are theirs, and not in the exit code"
        console.print(make_visible(told), highlight=False, markup=False, soft_wrap=not console.is_terminal)
    console.print(make_visible(f"all on one page: {out / 'index.html'}"), highlight=False, markup=False)
