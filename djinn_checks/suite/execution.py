"""One notebook run in processes of its own, and what it decided, settled outside of them.

papermill's own marks are not trusted: it leaves the cells of a dead kernel `completed`. No outcome file, or
one that cannot be read, is an ERROR with the cause and the last output.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from djinn_checks.bounded import read_text
from djinn_checks.errors import OutcomeError, RunnerError
from djinn_checks.outcome import Failure, Outcome, Status
from djinn_checks.processes import adopting_orphans, end_all, find_family, is_living, start_code
from djinn_checks.report.progress import SCRATCH, Stage, read_progress
from djinn_checks.suite.doubts import find_doubt, refuse
from djinn_checks.suite.limits import describe_limits
from djinn_checks.suite.stacks import LIMIT, STACKS
from djinn_checks.suite.texts import shorten
from djinn_checks.suite.warden import GRACE_S, guarded

_MARK, _SCRATCH = "DJINN_CHECKS_RUN", SCRATCH
_USERS_OWN = {"PYTHONSTARTUP"}
"""Variables that have a kernel run a file of the user's before anything else."""
_KEPT_OUTPUT = 12_000
_LONGEST_SUMMARY = 600
_NO_ROOM = os.strerror(errno.ENOSPC)
_LITTLE_ROOM = 64 * 1024
"""Bytes. A kernel needs more to start."""
_VMSTAT = Path("/proc/vmstat")
_CELL_TIMEOUT = "nbclient.exceptions.CellTimeoutError: "


@dataclass(frozen=True, kw_only=True)
class Job:
    """One params file of a suite, validated."""

    name: str
    """The file's: `<check>`, or `<check>-<variant>` where a suite runs one notebook several times."""
    check: str
    params_file: Path
    notebook: Path
    values: dict[str, Any]
    """As given."""
    replaced: tuple[str, ...] = ()
    """Names of those that are not the file's."""
    resolved: dict[str, Any] = field(default_factory=dict)
    """As the check takes them, defaults included."""


@dataclass(frozen=True, kw_only=True)
class End:
    """How the papermill process ended."""

    code: int | None
    """Exit code; negative for a signal; None if it was ended from here."""
    output: str
    limit_s: float
    """The time that it was given."""
    stopped: bool = False
    """Whether it was ended because the runner was told to stop, and not for its time."""
    stage: Stage | None = None
    """The last that the check told."""
    stacks: str = ""
    """Where its threads were when it crashed, or just before its time was over."""
    out_of_memory: bool = False
    """Whether the operating system ended processes for want of memory while it ran."""


def execute(
    job: Job,
    scratch: Path,
    timeout_s: float,
    *,
    cell_timeout_s: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[Stage], None] = lambda stage: None,
) -> End:
    """Run papermill and wait; at the end, whatever the end, nothing that it started is left running.

    Args:
        scratch: gets the executed notebook, the outcome, what the check keeps beside it, and the log.
        timeout_s: limit for the whole run.
        cell_timeout_s: papermill's limit for each cell.
        stop: asked ten times a second; the run is ended once it says yes.
        tell: told of each stage that the check is in, and how far it is.

    Raises:
        OSError: the scratch folder cannot be written.
    """
    values = {**job.values, "save_to": str(scratch / "outcome.json")}
    (scratch / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    command = [sys.executable, "-c", start_code("from djinn_checks.suite.kernel import main; main()")]
    command += [str(job.notebook), str(scratch / "executed.ipynb"), "--engine", "djinn-checks", "--no-progress-bar"]
    command += ["--log-output", "--cwd", os.getcwd(), "-f", str(scratch / "params.yaml")]
    command += [] if cell_timeout_s is None else ["--execution-timeout", str(cell_timeout_s)]
    environment = _environment(scratch, timeout_s)
    killed_before = _count_memory_kills()
    with (scratch / "log.txt").open("w+b") as log, adopting_orphans():
        before = psutil.Process().children()
        process = subprocess.Popen(
            guarded(command, scratch), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        try:
            code = _wait(process, timeout_s, stop, lambda: _tell(scratch, tell))
        finally:
            _end(process, environment[_MARK], before)
        log.seek(0)
        return End(
            code=code,
            output=log.read().decode(errors="replace")[-_KEPT_OUTPUT:],
            limit_s=timeout_s,
            stopped=code is None and stop(),
            stage=read_progress(scratch),
            stacks=_read_stacks(scratch),
            out_of_memory=_count_memory_kills() > killed_before,
        )


def _tell(scratch: Path, tell: Callable[[Stage], None]) -> None:
    stage = read_progress(scratch)
    if stage is not None:
        tell(stage)


def _read_stacks(scratch: Path) -> str:
    try:
        return (scratch / STACKS).read_text(encoding="utf-8", errors="replace")[-_KEPT_OUTPUT:]
    except OSError:
        return ""


def _environment(scratch: Path, timeout_s: float) -> dict[str, str]:
    """Return the environment of a run: what the user starts in every notebook has no part in ours, and what a run
    puts into the temporary folder lies in its own.
    """
    own = {_MARK: str(uuid.uuid4()), _SCRATCH: str(scratch), "IPYTHONDIR": str(scratch / "ipython")}
    own[LIMIT] = f"{timeout_s:.1f}"
    temporary = scratch / "tmp"
    temporary.mkdir()
    others = {name: value for name, value in os.environ.items() if name not in _USERS_OWN}
    return {**others, **own, "TMPDIR": str(temporary)}


def _wait(
    process: subprocess.Popen[bytes], timeout_s: float, stop: Callable[[], bool], look: Callable[[], None]
) -> int | None:
    """Return the exit code, or None once the time is over or the runner was told to stop."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and not stop():
        look()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(min(0.1, max(end - time.monotonic(), 0)))
    return process.poll()


def _count_memory_kills() -> int:
    """Return how many processes the kernel has ended for want of memory since it started; 0 if it does not say."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = _VMSTAT.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0


def _end(warden: subprocess.Popen[bytes], mark: str, before: Sequence[psutil.Process]) -> None:
    """End the warden, which ends every process that this run started; and what it could not, if it was ended itself."""
    warden.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        warden.wait(4 * GRACE_S)
    warden.kill()
    warden.wait()
    if warden.returncode < 0:  # by its own command's signal, or by what it was to look after
        end_all(lambda: [child for child in find_family() if _began_here(child, before)], GRACE_S)
    end_all(lambda: _marked(mark), GRACE_S)


def _began_here(process: psutil.Process, before: Sequence[psutil.Process]) -> bool:
    """Tell whether a process descends from none of those."""
    with contextlib.suppress(psutil.Error):
        return not {process, *process.parents()} & set(before)
    return False


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(_MARK) == mark and is_living(process):
                found.append(process)
    return found


def settle(job: Job, scratch: Path, end: End, started: str) -> Outcome:
    """Return the outcome that this run wrote, or an ERROR with the cause."""
    file, notebook = scratch / "outcome.json", scratch / "executed.ipynb"
    try:
        outcome = Outcome.load(file)
    except OutcomeError as error:
        if end.code == 0 and file.is_file():
            return settle_error(job, refuse(str(error), end.output), started)
        return settle_error(job, _cause(scratch, end, error), started)
    if end.code != 0 or outcome.check != job.check:
        cause = _cause(scratch, end, OutcomeError(f"the outcome is of check {outcome.check!r}"))
        kept = {name: getattr(outcome, name) for name in ("criteria", "measurements", "environment", "timings")}
        return replace(settle_error(job, cause, started), **kept)
    if outcome.failure is not None:
        return outcome
    doubt = find_doubt(outcome, asked=job.resolved, started=started, notebook=notebook, outcome_file=file)
    return settle_error(job, refuse(doubt, end.output), started) if doubt else outcome


def settle_not_started(job: Job, started: str) -> Outcome:
    """Return the ERROR of a job for which the suite had no time left."""
    message = "the suite's time was over before this check could start; give it more, or go on with --resume"
    return settle_error(job, Failure(type="NotStarted", message=message), started)


def settle_error(job: Job, cause: Failure, started: str) -> Outcome:
    """Return the ERROR of a job that did not come to its own end."""
    return Outcome(
        check=job.check,
        status=Status.ERROR,
        summary=shorten(f"{cause.type}: {cause.message}".splitlines()[0], _LONGEST_SUMMARY),
        params=job.resolved or job.values,
        failure=cause,
        started_at=started,
    )


def _cause(scratch: Path, end: End, error: OutcomeError) -> Failure:
    raised, full = _raised(scratch / "executed.ipynb"), _find_full_disk(scratch, end.output)
    if end.stopped:
        message = "the suite was told to stop (Ctrl-C or a signal) while this check ran; go on with --resume"
        return Failure(type="Interrupted", message=message, traceback=end.output)
    if end.code is None:
        message = f"the run was ended after {end.limit_s:.0f} s: its own time limit, or what the suite had left"
        message += f"; the stage that it was in: {end.stage.describe()}" if end.stage else ""
        return Failure(type="Timeout", message=message, traceback=_with_stacks(end))
    if end.code and (line := _find_cell_timeout(end.output)):  # papermill interrupts the cell, which then raises too
        return Failure(type="CellTimeout", message=line.removeprefix(_CELL_TIMEOUT), traceback=end.output)
    if full and (raised is None or _NO_ROOM in raised.message):
        message = f"{full}, where the run keeps what it makes; make room, or name another place by TMPDIR"
        return Failure(type="DiskFull", message=message, traceback=end.output)
    if raised is not None:
        return raised
    if end.code == 0:
        message = f"the notebook ended without an outcome: {error}"
        return Failure(type="NoOutcome", message=message, traceback=end.output)
    return _death(end)


def _find_full_disk(scratch: Path, output: str) -> str:
    """Return a sentence if the disk of the scratch folder has no room left; empty if it has."""
    disk = os.statvfs(scratch)
    full = disk.f_bavail * disk.f_frsize < _LITTLE_ROOM or (disk.f_files and not disk.f_favail)
    return f"the disk of {scratch.parent} is full" if full or (_NO_ROOM in output and str(scratch) in output) else ""


def _death(end: End) -> Failure:
    """Return the cause of a kernel or a papermill that died: by its exit code, and what the kernel counted."""
    memory = (
        "; the operating system ended a process for want of memory meanwhile, so this machine has too little"
        if end.out_of_memory
        else ""
    )
    if end.code is not None and end.code < 0:
        said = f"papermill was ended by {signal.Signals(-end.code).name}{memory}{describe_limits()}"
        return Failure(type="Killed", message=said, traceback=_with_stacks(end))
    message = (
        f"the kernel died, or papermill failed (exit code {end.code}){memory}{describe_limits()}; see the last output"
    )
    message += f"; the stage that it was in: {end.stage.describe()}" if end.stage else ""
    return Failure(type="OutOfMemory" if memory else "DeadKernel", message=message, traceback=_with_stacks(end))


def _with_stacks(end: End) -> str:
    """Return the last output, and before it where the check was, if that is known."""
    return f"{end.stacks.rstrip()}\n\n{end.output}" if end.stacks.strip() else end.output


def _find_cell_timeout(text: str) -> str:
    """Return the line with which papermill's traceback ends when a cell ran over its time; empty if there is none."""
    return next((line for line in reversed(text.splitlines()) if line.startswith(_CELL_TIMEOUT)), "")


def _raised(notebook: Path) -> Failure | None:
    """Return the exception that a cell of the executed notebook shows, if one does."""
    if not is_notebook(notebook):
        return None
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", ()):
            if output.get("output_type") == "error":
                trace = "\n".join(output.get("traceback", ()))
                plain = _without_colours(trace)[-8000:]
                return Failure(type=output["ename"], message=output["evalue"], traceback=plain)
    return None


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def is_notebook(path: Path) -> bool:
    try:
        found = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "cells" in found


def find_notebook(check: str) -> Path:
    """Return the notebook of a check: from the checkout this package runs from, or shipped in the wheel.

    Raises:
        RunnerError: it is in neither place.
    """
    package = Path(__file__).resolve().parents[1]
    places = [folder / "notebooks" / f"{check}.ipynb" for folder in (package.parent, package)]
    for place in places:
        if check.isidentifier() and place.is_file():
            return place
    raise RunnerError(f"notebook {check}.ipynb: not in {places[0].parent} and not in the installed package; reinstall")
