"""Runs a suite: a folder of params, each with the notebook of its name (`execution.py`), and keeps what came of it.

Every job gets an outcome, a report and a line on the front page, whatever became of its kernel.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import yaml

from djinn_checks.errors import OutcomeError, ParamsError, RunnerError
from djinn_checks.execution import Job, execute, is_notebook, settle, settle_not_started
from djinn_checks.folder import read_outcomes, render_fault_notes, render_report, write_index
from djinn_checks.outcome import Failure, Outcome, Status, write_atomically
from djinn_checks.params import PARAMS, Params

DEFAULT_TIMEOUT_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a job: the settled outcome and where its files are."""

    job: Job
    outcome: Outcome
    seconds: float
    outcome_file: Path
    notebook_file: Path | None
    html_file: Path | None
    report_problem: str = ""
    """Why there is no report; empty if there is one."""


def read_suite(folder: Path, only: Iterable[str] = ()) -> list[Job]:
    """Read and validate every params file of a suite before anything runs.

    Args:
        folder: holds `<check>.yaml` or `<check>-<variant>.yaml` files, run with `notebooks/<check>.ipynb`.
        only: run these files or checks alone, in the order of the folder.

    Raises:
        ParamsError: a file is not a mapping of known names to possible values.
        RunnerError: the folder has no params file, `only` names none of them, or a notebook is missing.
    """
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if not files:
        raise RunnerError(f"suite {folder}: expected a folder with <check>.yaml files, found none there")
    names = [file.stem for file in files]
    unknown = sorted(set(only) - set(names) - {_check_of(name) for name in names})
    if unknown:
        raise RunnerError(f"suite {folder}: --only names {', '.join(unknown)}; it has {', '.join(names)}")
    return [_read_job(file) for file in files if not only or {file.stem, _check_of(file.stem)} & set(only)]


def _check_of(name: str) -> str:
    return name.partition("-")[0]


def _read_job(file: Path) -> Job:
    check = _check_of(file.stem)
    if check not in PARAMS:
        raise RunnerError(f"{file}: there is no check of that name; known: {', '.join(PARAMS)}")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ParamsError(f"{file}: cannot be read as YAML ({error})") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ParamsError(f"{file}: expected `name: value` lines, got {type(values).__name__}")
    checked: type[Params] = PARAMS[check]
    try:
        checked.create(**{str(name): value for name, value in values.items()})
    except ParamsError as error:
        raise ParamsError(f"{file}: {error}") from None
    return Job(name=file.stem, check=check, params_file=file, notebook=find_notebook(check), values=values)


def find_notebook(name: str) -> Path:
    """Return the notebook of a check: from the checkout this package runs from, or shipped in the wheel.

    Raises:
        RunnerError: it is in neither place.
    """
    package = Path(__file__).resolve().parent
    places = [package.parent / "notebooks" / f"{name}.ipynb", package / "notebooks" / f"{name}.ipynb"]
    for place in places:
        if place.is_file():
            return place
    raise RunnerError(f"notebook {name}.ipynb: not in {places[0].parent} and not in the installed package; reinstall")


def run_suite(
    jobs: Iterable[Job],
    out: Path,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    suite_timeout_s: float = math.inf,
    resume: bool = False,
    on_start: Callable[[Job], None] = lambda job: None,
    on_result: Callable[[Result], None] = lambda result: None,
) -> Iterator[Result]:
    """Run jobs one after the other and write `<name>.outcome.json`, `.ipynb`, `.html` and samples into `out`.

    `index.html` shows all verdicts of the folder and is written anew after each job.

    Files of an earlier run of the same check are removed first. Results come as they are settled, so an
    interrupt loses only the job it hits.

    Args:
        timeout_s: limit for each job.
        suite_timeout_s: limit for all of them together. The job that it hits is ended; those that it leaves no
            time for are not started. Both are ERROR, with a report.
        resume: leave a job alone whose outcome is there, was made from the same params and is no ERROR.

    Raises:
        RunnerError: `out` cannot be written.
    """
    end = time.monotonic() + suite_timeout_s
    for job in jobs:
        on_start(job)
        limit_s = min(timeout_s, end - time.monotonic())
        result = (find_result(job, out) if resume else None) or run_job(job, out, timeout_s=limit_s)
        with contextlib.suppress(OSError):  # a front page is made anew by the next job, or by `render`
            write_index(out)
        on_result(result)
        yield result
    # Faults that ran after a check are mentioned in its report. It has one already, so nothing is lost without.
    with contextlib.suppress(Exception):
        render_fault_notes(out)


def find_result(job: Job, out: Path) -> Result | None:
    """Return the result of an earlier run of the same params, or None if there is none or it was an ERROR."""
    file = out / f"{job.name}.outcome.json"
    try:
        outcome = Outcome.load(file)
    except OutcomeError:
        return None
    wanted = PARAMS[job.check].create(**job.values).model_dump(mode="json") | {"save_to": ""}
    if outcome.status is Status.ERROR or dict(outcome.params) != wanted:
        return None
    paths = {kind: out / f"{job.name}.{kind}" for kind in ("ipynb", "html")}
    there = {kind: path if path.is_file() else None for kind, path in paths.items()}
    return Result(
        job=job,
        outcome=outcome,
        seconds=0.0,
        outcome_file=file,
        notebook_file=there["ipynb"],
        html_file=there["html"],
        report_problem="" if there["html"] else "its report is missing; `djinn-checks render` makes it anew",
    )


def run_job(job: Job, out: Path, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Result:
    """Run one job and settle its outcome; without time it is not started. See `run_suite`."""
    files = {kind: out / f"{job.name}.{kind}" for kind in ("outcome.json", "ipynb", "html", "log")}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file in (*files.values(), *out.glob(f"{job.name}.samples.*")):
            file.unlink(missing_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        message = f"output folder {out}: cannot be written ({error.strerror}); choose another with --out"
        raise RunnerError(message) from error
    with tempfile.TemporaryDirectory(prefix="djinn-checks-run-") as name:
        started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        if timeout_s > 0:
            outcome = settle(job, Path(name), execute(job, Path(name), timeout_s), started)
        else:
            outcome = settle_not_started(job, started)
        outcome = _with_provenance(outcome, job, time.monotonic() - clock)
        page, problem = _try_render(Path(name) / "executed.ipynb", outcome, read_outcomes(out).values())
        try:
            _store(Path(name), outcome, page, files)
        except OSError as error:
            outcome, problem = _not_stored(outcome, files, error), "the results could not be written"
    there = {kind: path if path.is_file() else None for kind, path in files.items()}
    return Result(
        job=job,
        outcome=outcome,
        seconds=outcome.timings["run_s"],
        outcome_file=files["outcome.json"],
        notebook_file=there["ipynb"],
        html_file=there["html"],
        report_problem=problem,
    )


def _store(scratch: Path, outcome: Outcome, page: str | None, files: Mapping[str, Path]) -> None:
    """Write what a run left to its final places, each file whole or not at all, the verdict first."""
    outcome.save(files["outcome.json"])
    if page is not None:
        write_atomically(files["html"], page)
    if is_notebook(scratch / "executed.ipynb"):
        _put(scratch / "executed.ipynb", files["ipynb"])
    for samples in scratch.glob("outcome.samples.*"):  # what a check keeps beside its outcome
        _put(samples, files["log"].with_name(samples.name.replace("outcome", files["log"].stem, 1)))
    if (scratch / "log.txt").is_file():  # a job that was not started has none
        _put(scratch / "log.txt", files["log"])


def _put(source: Path, target: Path) -> None:
    """Copy a file beside its final name and move it there; the scratch folder may be on another disk."""
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.copyfile(source, part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _not_stored(outcome: Outcome, files: Mapping[str, Path], error: OSError) -> Outcome:
    """Return an ERROR in place of a verdict whose evidence could not be kept.

    What was written of it is removed, which makes room for the ERROR and its page.
    """
    folder = files["log"].parent
    message = f"{folder}: {error.strerror or error} while the results were written; make room and run again"
    failure = Failure(type=type(error).__name__, message=message)
    settled = replace(outcome, status=Status.ERROR, summary=message, failure=failure, criteria=(), measurements={})
    for file in (*files.values(), *folder.glob(f"{files['log'].stem}.samples.*")):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        settled.save(files["outcome.json"])
        write_atomically(files["html"], render_report(folder / "no notebook", settled))
    return settled


def _with_provenance(outcome: Outcome, job: Job, seconds: float) -> Outcome:
    """Add which notebook was run, and how long it took with its kernel's start.

    Returned as it reads back from its file, so that its page is the one that `render` makes later.
    """
    notebook = {"name": job.notebook.name, "sha256": hashlib.sha256(job.notebook.read_bytes()).hexdigest()}
    whole = replace(
        outcome,
        environment={**outcome.environment, "notebook": notebook},
        timings={**outcome.timings, "run_s": seconds},
    )
    return Outcome.from_dict(json.loads(json.dumps(whole.to_dict(), sort_keys=True)))


def _try_render(notebook: Path, outcome: Outcome, beside: Iterable[Outcome]) -> tuple[str | None, str]:
    """Return the report, or None and why there is none: a verdict is not lost for the sake of its page."""
    try:
        return render_report(notebook, outcome, beside), ""
    except Exception as error:
        return None, f"no report could be written ({type(error).__name__}: {error}); `djinn-checks render` tries again"
