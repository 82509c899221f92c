"""What a run leaves: its outcome with provenance, and beside it report, notebook, params, samples and log."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from djinn_checks.bounded import read_text
from djinn_checks.outcome import Failure, Outcome, Status, write_atomically
from djinn_checks.processes import start_code
from djinn_checks.report.frames import list_frames
from djinn_checks.report.load import OUTCOME_MIME
from djinn_checks.report.notebook.fill import Figures, fill_figures
from djinn_checks.suite.execution import Job, is_notebook
from djinn_checks.suite.files import OUTCOME, list_files
from djinn_checks.suite.folder import read_outcomes, render_report
from djinn_checks.suite.texts import fit_notebook, fit_outcome

_FULL = {errno.ENOSPC, errno.EDQUOT}
_PROBE = """
import json
from djinn_checks.devices import choose_device
from djinn_checks.instruments.environment import read_environment
print(json.dumps(read_environment(choose_device("auto"))))
"""
_PROBE_TIMEOUT_S = 60.0


def add_provenance(outcome: Outcome, job: Job, seconds: float, *, ran_here: bool = True) -> Outcome:
    """Add which notebook was run, and how long it took with its kernel's start; the machine if the kernel died first.

    Returned as it reads back from its file, so that its page is the one that `render` makes later.

    Args:
        ran_here: whether it ran on this machine, which then is looked at.
    """
    notebook = {"name": job.notebook.name, "sha256": hashlib.sha256(job.notebook.read_bytes()).hexdigest()}
    started = outcome.failure is None or outcome.failure.type != "NotStarted"
    machine = outcome.environment or (_probe_environment() if started and ran_here else {})
    whole = replace(
        outcome,
        environment={**machine, "notebook": notebook},
        timings={**outcome.timings, "run_s": seconds},
    )
    return Outcome.from_dict(json.loads(json.dumps(whole.to_dict(), sort_keys=True)))


@cache
def _probe_environment() -> Mapping[str, Any]:
    """Return the machine's facts as a process of its own reads them; empty if it cannot.

    It loads torch and asks the driver, either of which may be what a kernel died of.
    """
    try:
        probe = subprocess.run(
            [sys.executable, "-c", start_code(f"exec({_PROBE!r})")],
            capture_output=True,
            text=True,
            check=True,
            timeout=_PROBE_TIMEOUT_S,
        )
        return {**json.loads(probe.stdout), "read": "after the run, by another process"}
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}


def keep(scratch: Path | None, outcome: Outcome, job: Job, out: Path) -> tuple[Outcome, str]:
    """Store what a run left, each file whole or not at all, in place of what an earlier one did.

    Args:
        scratch: the folder that the job ran in; None if there was none.

    Returns:
        The outcome as stored, an ERROR if its evidence could not be; and why there is no report, or nothing.
    """
    outcome, whole = fit_outcome(outcome)
    if scratch is not None:
        _tidy(scratch, whole)
    try:
        out.mkdir(parents=True, exist_ok=True)
        clear(job.name, out)
        outcome.save(out / f"{job.name}.outcome.json")  # the verdict first: nothing that follows can lose it
        page, problem = _try_render(scratch, outcome, job.name, out)
        problem = _store(scratch, outcome, page, job, out) or problem
    except (OSError, UnicodeError) as error:
        return _not_stored(outcome, job.name, out, error), "the results could not be written"
    return outcome, problem


def adopt(folder: Path, job: Job, out: Path) -> None:
    """Take in what a run of a job left in another folder, in place of what an earlier one left; the verdict last.

    Raises:
        OSError: not all of it could be written.
    """
    clear(job.name, out)
    files = list_files(folder, job.name)
    for file in sorted(files, key=lambda file: file.name == f"{job.name}{OUTCOME}"):
        _put(file, out / file.name)
    _store_params(job, out)


def clear(name: str, out: Path) -> None:
    """Remove what an earlier run of a job left, so that nothing of it is taken for this one's."""
    for file in list_files(out, name):
        file.unlink(missing_ok=True)


def _store(scratch: Path | None, outcome: Outcome, page: str | None, job: Job, out: Path) -> str:
    """Write everything but the verdict to its final place; return why there are no samples, or nothing."""
    if page is not None:
        write_atomically(out / f"{job.name}.html", page)
    _store_params(job, out)
    if scratch is not None:
        _store_scratch(scratch, job.name, out)
    frames, problem = _try_frames(outcome)
    for frame, text in frames.items():
        write_atomically(out / f"{job.name}.samples.{frame}.csv", text)
    return problem


def _store_params(job: Job, out: Path) -> None:
    """Keep the params file; where values stand in place of its own, keep the lines that it begins with, and those."""
    if not job.params_file.is_file():
        return
    target = out / f"{job.name}.params.yaml"
    if not job.replaced:
        _put(job.params_file, target)
        return
    lines = read_text(job.params_file).splitlines(keepends=True)
    head = "".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    told = f"# Run with another {', '.join(job.replaced)} than the file's (--set).\n"
    write_atomically(target, head + told + yaml.safe_dump(job.values, sort_keys=False, allow_unicode=True))


def _try_frames(outcome: Outcome) -> tuple[dict[str, str], str]:
    """Return the samples as CSV by name, or none and why: a system's own account may be of another shape."""
    try:
        frames = list_frames(outcome)
        return {name: data.to_csv(index=False) for name, data in frames.items() if not data.empty}, ""
    except Exception as error:
        return {}, f"no samples could be written ({type(error).__name__}: {error})"


def _store_scratch(scratch: Path, name: str, out: Path) -> None:
    if is_notebook(scratch / "executed.ipynb"):
        _put(scratch / "executed.ipynb", out / f"{name}.ipynb")
    for samples in list_files(scratch, "outcome"):  # what a check keeps beside its outcome
        if ".samples." in samples.name:
            _put(samples, out / samples.name.replace("outcome", name, 1))
    if (scratch / "log.txt").is_file():  # a job that was not started has none
        _put(scratch / "log.txt", out / f"{name}.log")


def _tidy(scratch: Path, whole: str) -> None:
    """Cut what is too long in the executed notebook, and take the name of the scratch folder out: it is another one
    in every run. What was cut of the outcome is added to the log.
    """
    notebook = scratch / "executed.ipynb"
    # None there, no room for another, or one that a kernel has written over.
    with contextlib.suppress(OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        text = read_text(notebook).replace(f"{scratch}/", "")
        before = json.loads(text)
        fit = fit_notebook(before, OUTCOME_MIME)
        write_atomically(notebook, text if fit == before else json.dumps(fit, indent=1, ensure_ascii=False) + "\n")
    if whole:
        with contextlib.suppress(OSError), (scratch / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"\nWhat the outcome shows the begin and the end of, as a whole:\n{whole}\n")


def _fill(notebook: Path, figures: Figures) -> None:
    """Put the page's figures into the executed notebook, whose kernel left them to it."""
    with contextlib.suppress(OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        told = json.loads(read_text(notebook))
        if fill_figures(told, figures):
            write_atomically(notebook, json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def _put(source: Path, target: Path) -> None:
    """Copy a file beside its final name and move it there; the scratch folder may be on another disk."""
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.copyfile(source, part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _not_stored(outcome: Outcome, name: str, out: Path, error: OSError | UnicodeError) -> Outcome:
    """Return an ERROR in place of a verdict whose evidence could not be kept.

    What was written of it is removed, which makes room for the ERROR and its page.
    """
    full = isinstance(error, OSError) and error.errno in _FULL
    remedy = "make room and run again" if full else "run again, or with another --out"
    message = f"{out}: {getattr(error, 'strerror', None) or error} while the results were written; {remedy}"
    failure = Failure(type=type(error).__name__, message=message)
    settled = replace(outcome, status=Status.ERROR, summary=message, failure=failure, criteria=(), measurements={})
    with contextlib.suppress(OSError):
        clear(name, out)
        settled.save(out / f"{name}.outcome.json")
        write_atomically(out / f"{name}.html", render_report(None, settled, name=name))
    return settled


def _try_render(scratch: Path | None, outcome: Outcome, name: str, out: Path) -> tuple[str | None, str]:
    """Return the report, or None and why there is none: a verdict is not lost for the sake of its page.

    Args:
        out: where the outcomes lie that a report may mention. Some of them may be from elsewhere.
    """
    notebook = scratch / "executed.ipynb" if scratch else None
    figures: Figures = {}
    try:
        page = render_report(notebook, outcome, read_outcomes(out).values(), name=name, figures=figures)
        if notebook is not None:
            _fill(notebook, figures)
        return page, ""
    except Exception as error:
        return None, f"no report could be written ({type(error).__name__}: {error}); `djinn-checks render` tries again"
