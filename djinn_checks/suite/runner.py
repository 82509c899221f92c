"""Runs a suite: a folder of params, each with the notebook of its name (`execution.py`), and keeps what came of it.

Every job gets an outcome, a report and a line on the front page, whatever became of its kernel.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from djinn_checks.errors import OutcomeError, RunnerError
from djinn_checks.outcome import Failure, Outcome, Status
from djinn_checks.report.progress import Stage
from djinn_checks.suite.doubts import only_params
from djinn_checks.suite.execution import Job, execute, settle, settle_error, settle_not_started
from djinn_checks.suite.folder import render_fault_notes, set_aside, write_index
from djinn_checks.suite.limits import describe_limits, owner_may
from djinn_checks.suite.lock import alone_in
from djinn_checks.suite.machine import find_other_gpu, find_other_machine
from djinn_checks.suite.params_folder import Limits
from djinn_checks.suite.scratch import scratch_folder
from djinn_checks.suite.shards import Split, add_split
from djinn_checks.suite.storage import add_provenance, clear, keep

_SHORT = {
    errno.EMFILE: "the files that this process may open",
    errno.ENFILE: "the files that this machine may open",
    errno.EAGAIN: "the processes that this user may have",
    errno.ENOMEM: "this machine's memory or addresses",
}
"""What there is too little of to start a process."""
Tell = Callable[[Job, Stage], None]
"""Takes a job and the stage that it is in."""
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a job: the settled outcome and where its files are."""

    job: Job
    outcome: Outcome
    seconds: float
    outcome_file: Path
    html_file: Path | None
    report_problem: str = ""
    """Why there is no report; empty if there is one."""
    stopped: bool = False
    """Whether Ctrl-C or a signal to end came while it ran: nothing is run after it."""


def run_suite(
    jobs: Iterable[Job],
    out: Path,
    *,
    limits: Limits | None = None,
    resume: bool = False,
    part: bool = False,
    split: Split | None = None,
    on_start: Callable[[Job], None] = lambda job: None,
    on_progress: Tell = lambda job, stage: None,
) -> Iterator[Result]:
    """Run jobs one after the other and write `<name>.outcome.json`, `.ipynb`, `.html` and samples into `out`.

    `index.html` shows all verdicts of the folder and is written anew after each job. What an earlier run left in
    the folder is set aside first, and a second run at the same time is refused: two runs never mix.

    Results come as they are settled. Ctrl-C or a signal to end settles the job that it hits as ERROR, and ends the
    iteration after it with KeyboardInterrupt.

    Args:
        limits: of time; the defaults if there are none. A job that runs over one is ended; one that the suite's
            leaves no time for is not started. Both are ERROR, with a report.
        resume: go on in the folder, and leave a job alone whose outcome is there, was made here from the same
            params, and is no ERROR.
        part: these jobs are a part of a suite: what other jobs left in the folder stays there.
        split: these jobs are a shard, which the folder then tells of.
        on_start: called with each job before it runs.
        on_progress: called with a job and its stage, several times a second while it runs.

    Raises:
        RunnerError: `out` cannot be written, or another run writes there.
    """
    limits, jobs = limits or Limits(), list(jobs)
    end = time.monotonic() + (limits.suite_timeout_s or math.inf)
    with alone_in(out):
        if not resume:
            set_aside_earlier(out, [job.name for job in jobs] if part else None)
        if split is not None:
            add_split(out, split)
        for job in jobs:
            on_start(job)
            result = (find_result(job, out) if resume else None) or run_job(
                job,
                out,
                timeout_s=min(limits.timeout_s, end - time.monotonic()),
                cell_timeout_s=limits.cell_timeout_s,
                tell=partial(on_progress, job),
            )
            try:
                write_index(out)
            except Exception as error:  # a front page is made anew by the next job, or by `render`
                problem = f"the front page could not be written ({type(error).__name__}: {error})"
                result = replace(result, report_problem=f"{result.report_problem or result.html_file}; {problem}")
            yield result
            if result.stopped:
                raise KeyboardInterrupt
        # Faults that ran after a check are mentioned in its report. It has one already, so nothing is lost without.
        with contextlib.suppress(Exception):
            render_fault_notes(out)


def set_aside_earlier(out: Path, names: list[str] | None) -> None:
    """Move what an earlier run left of these, or of all, out of the way.

    Raises:
        RunnerError: it cannot be moved.
    """
    try:
        set_aside(out, names)
    except OSError as error:
        message = f"output folder {out}: what an earlier run left there cannot be moved ({error.strerror}); use --out"
        raise RunnerError(message) from error


@contextlib.contextmanager
def hold_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and signals to end for as long as the block runs, so that a job is always settled and stored."""
    held: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # signals come to the main thread alone
        yield held
        return
    found = {ending: signal.getsignal(ending) for ending in _STOPS}
    before = {ending: handler for ending, handler in found.items() if handler is not signal.SIG_IGN}
    for ending in before:
        signal.signal(ending, lambda number, frame: held.append(number))
    try:
        yield held
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler or signal.SIG_DFL)


def find_result(job: Job, out: Path, *, is_known: bool = False) -> Result | None:
    """Return the result of an earlier run of the same params on this machine, or None if there is none, it was an
    ERROR, or it contradicts itself.

    Args:
        is_known: whether it has been seen already that the machine is one that would run the job.
    """
    file = out / f"{job.name}.outcome.json"
    try:
        outcome = Outcome.load(file)
    except OutcomeError:
        return None
    is_same = only_params(outcome.params) == job.resolved and (is_known or not find_other_machine(outcome.environment))
    is_same = is_same and (is_known or not find_other_gpu(outcome.environment, os.environ))
    if outcome.status is Status.ERROR or not is_same:
        return None
    html = out / f"{job.name}.html"
    return Result(
        job=job,
        outcome=outcome,
        seconds=0.0,
        outcome_file=file,
        html_file=html if html.is_file() else None,
        report_problem="" if html.is_file() else "its report is missing; `djinn-checks render` makes it anew",
    )


def run_job(
    job: Job,
    out: Path,
    *,
    timeout_s: float = Limits().timeout_s,
    cell_timeout_s: int | None = None,
    tell: Callable[[Stage], None] = lambda stage: None,
) -> Result:
    """Run one job and settle its outcome, whatever happens; without time it is not started. See `run_suite`."""
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    with hold_signals() as held, owner_may(), contextlib.ExitStack() as stack:
        scratch: Path | None = None
        try:
            clear(job.name, out)
            scratch = stack.enter_context(scratch_folder())
            outcome = _run(job, scratch, timeout_s, cell_timeout_s, started, held, tell)
        except OSError as error:  # not even a place to run in
            outcome = settle_error(job, _describe(error), started)
        outcome = add_provenance(outcome, job, time.monotonic() - clock)
        outcome, problem = keep(scratch, outcome, job, out)
    html = out / f"{job.name}.html"
    return Result(
        job=job,
        outcome=outcome,
        seconds=outcome.timings["run_s"],
        outcome_file=out / f"{job.name}.outcome.json",
        html_file=html if html.is_file() else None,
        report_problem=problem,
        stopped=bool(held),
    )


def _run(
    job: Job,
    scratch: Path,
    timeout_s: float,
    cell_timeout_s: int | None,
    started: str,
    held: list[int],
    tell: Callable[[Stage], None],
) -> Outcome:
    if timeout_s <= 0:
        return settle_not_started(job, started)
    end = execute(job, scratch, timeout_s, cell_timeout_s=cell_timeout_s, stop=lambda: bool(held), tell=tell)
    return settle(job, scratch, end, started)


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:  # none that can be written, and the error says which were tried
        return "temporary folder"


def _describe(error: OSError) -> Failure:
    place, remedy = error.filename or _temporary_folder(), "make room, or name other places by --out and TMPDIR"
    if error.errno in _SHORT:
        place, remedy = "a run could not be started", f"{_SHORT[error.errno]} are used up{describe_limits()}"
    return Failure(type=type(error).__name__, message=f"{place}: {error.strerror or error}; {remedy}")
