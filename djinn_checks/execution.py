"""One notebook run in processes of its own, and what it decided, settled outside of them.

papermill's own marks are not trusted: it leaves the cells of a dead kernel `completed`. No outcome file, or
one that cannot be read, is an ERROR with the cause and the last output.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from djinn_checks.errors import OutcomeError
from djinn_checks.outcome import Failure, Outcome, Status

_GRACE_S = 5.0
_MARK = "DJINN_CHECKS_RUN"
_KEPT_OUTPUT = 4000


@dataclass(frozen=True, kw_only=True)
class Job:
    """One params file of a suite, validated."""

    name: str
    """The file's: `<check>`, or `<check>-<variant>` where a suite runs one notebook several times."""
    check: str
    params_file: Path
    notebook: Path
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class End:
    """How the papermill process ended."""

    code: int | None
    """Exit code; negative for a signal; None if the time limit ended it."""
    output: str
    limit_s: float
    """The time that it was given."""


def execute(job: Job, scratch: Path, timeout_s: float) -> End:
    """Run papermill and wait; at the end, whatever the end, nothing that it started is left running.

    Args:
        scratch: gets the executed notebook, the outcome, what the check keeps beside it, and the log.
    """
    values = {**job.values, "save_to": str(scratch / "outcome.json")}
    (scratch / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    command = [sys.executable, "-m", "papermill", str(job.notebook), str(scratch / "executed.ipynb")]
    command += ["-f", str(scratch / "params.yaml"), "--no-progress-bar", "--log-output", "--cwd", os.getcwd()]
    environment = os.environ | {_MARK: str(uuid.uuid4())}
    with (scratch / "log.txt").open("w+b") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        try:
            code: int | None = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_marked(environment[_MARK])
            process.wait()
        log.seek(0)
        return End(code=code, output=log.read().decode(errors="replace")[-_KEPT_OUTPUT:], limit_s=timeout_s)


def _end_marked(mark: str) -> None:
    """End every process that this run started: politely, then not.

    A kernel is in a session of its own, and an orphan once papermill is gone; but it has inherited the
    mark in its environment, as has whatever it started itself.
    """
    for end in (psutil.Process.terminate, psutil.Process.kill):
        found = _marked(mark)
        for process in found:
            with contextlib.suppress(psutil.Error):
                end(process)
        psutil.wait_procs(found, timeout=_GRACE_S)


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(_MARK) == mark:
                found.append(process)
    return found


def settle(job: Job, scratch: Path, end: End, started: str) -> Outcome:
    """Return the outcome that this run wrote, or an ERROR with the cause."""
    try:
        outcome = Outcome.load(scratch / "outcome.json")
    except OutcomeError as error:
        return _error(job, _cause(scratch, end, error), started)
    if end.code == 0 and outcome.check == job.check:
        return replace(outcome, params={**outcome.params, "save_to": ""})  # the scratch folder says nothing to anyone
    cause = _cause(scratch, end, OutcomeError(f"the outcome is of check {outcome.check!r}"))
    return replace(_error(job, cause, started), criteria=outcome.criteria, measurements=outcome.measurements)


def settle_not_started(job: Job, started: str) -> Outcome:
    """Return the ERROR of a job for which the suite had no time left."""
    message = "the suite's time was over before this check could start; give it more, or go on with --resume"
    return _error(job, Failure(type="NotStarted", message=message), started)


def _cause(scratch: Path, end: End, error: OutcomeError) -> Failure:
    raised = _raised(scratch / "executed.ipynb")
    if end.code is None:
        message = f"the run was ended after {end.limit_s:.0f} s: its own time limit, or what the suite had left"
        return Failure(type="Timeout", message=message, traceback=end.output)
    if raised is not None:
        return raised
    if end.code == 0:
        message = f"the notebook ended without an outcome: {error}"
        return Failure(type="NoOutcome", message=message, traceback=end.output)
    if end.code < 0:
        name = signal.Signals(-end.code).name
        return Failure(type="Killed", message=f"papermill was ended by {name}", traceback=end.output)
    message = f"the kernel died, or papermill failed (exit code {end.code}); see the last output"
    return Failure(type="DeadKernel", message=message, traceback=end.output)


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
        return "cells" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _error(job: Job, cause: Failure, started: str) -> Outcome:
    return Outcome(
        check=job.check,
        status=Status.ERROR,
        summary=f"{cause.type}: {cause.message}".splitlines()[0][:300],
        params=job.values,
        failure=cause,
        started_at=started,
    )
