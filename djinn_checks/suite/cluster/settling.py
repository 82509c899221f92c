"""What a job comes to that went to another host: its own outcome, taken in as it is, or an ERROR with what went wrong.

An outcome names no host by its address, so neither does an ERROR.
"""

from __future__ import annotations

import contextlib
import shutil
from datetime import UTC, datetime
from pathlib import Path

from djinn_checks.bounded import read_text
from djinn_checks.errors import OutcomeError
from djinn_checks.outcome import Failure, Outcome
from djinn_checks.suite.cluster.journey import Back
from djinn_checks.suite.cluster.placement import Host
from djinn_checks.suite.doubts import only_params
from djinn_checks.suite.execution import Job, settle_error, settle_not_started
from djinn_checks.suite.files import OUTCOME
from djinn_checks.suite.runner import Result
from djinn_checks.suite.storage import add_provenance, adopt, keep

_LAST = 12_000
"""Characters of what a job said last."""
_REFUSED = 2
"""The exit code with which our command line refuses what it is asked for."""


def settle_back(
    job: Job, back: Back | None, folder: Path, out: Path, started: str, seconds: float, host: Host
) -> Result:
    """Store what came of a job and return it.

    Args:
        back: how its journey ended; None if this side's part of it crashed.
        folder: holds what came back.
        out: the suite's output folder, with the job's log as far as it came.
        started: when the job left, UTC, ISO 8601.
        seconds: since then.
        host: where it was.
    """
    outcome: Outcome | None = None
    if back is not None and back.code is not None:
        try:
            outcome = _read(job, folder)
            adopt(folder, job, out)
            return _result(job, outcome, outcome.timings.get("run_s", seconds), out)
        except OutcomeError as error:
            cause = _refused(job, back.code, out) or Failure(type="NoOutcome", message=f"on {host.name}: {error}")
        except OSError as error:
            cause = Failure(
                type=type(error).__name__, message=f"{out}: {error.strerror or error}; make room and run again"
            )
    else:
        cause = _find_cause(back, host)
    said = _read_log(job, out)
    with contextlib.suppress(OSError):
        shutil.copyfile(out / f"{job.name}.log", folder / "log.txt")
    settled = settle_error(job, Failure(type=cause.type, message=cause.message, traceback=said[-_LAST:]), started)
    return _store(job, settled, folder, out, seconds, stopped=back is not None and back.stopped)


def settle_no_host(job: Job, out: Path) -> Result:
    """Store the ERROR of a job that no host is left for."""
    message = "no host is left of those that have what this check asks for; go on with --resume once there are some"
    cause = Failure(type="NoHost", message=message)
    return _store(job, settle_error(job, cause, _now()), None, out, 0.0)


def settle_unstarted(job: Job, out: Path) -> Result:
    """Store the ERROR of a job that the suite has no time left for."""
    return _store(job, settle_not_started(job, _now()), None, out, 0.0)


def _read(job: Job, folder: Path) -> Outcome:
    """Return the outcome that came back.

    Raises:
        OutcomeError: there is none, it contradicts itself, or it is of another job.
    """
    outcome = Outcome.load(folder / f"{job.name}{OUTCOME}")
    if outcome.check != job.check or (outcome.failure is None and only_params(outcome.params) != job.resolved):
        raise OutcomeError("the outcome that came back is of another check, or of other params than were asked for")
    return outcome


def _refused(job: Job, code: int, out: Path) -> Failure | None:
    if code != _REFUSED:
        return None
    lines = [line for line in _read_log(job, out).splitlines() if line.startswith("djinn-checks: ")]
    said = lines[-1].removeprefix("djinn-checks: ") if lines else "its command line was refused"
    return Failure(type="Refused", message=f"the host that it came to says: {said}")


def _find_cause(back: Back | None, host: Host) -> Failure:
    if back is None:
        return Failure(type="Crashed", message=f"this side lost its way while {host.name} ran it, which it should not")
    if back.lost is not None:
        return Failure(type=back.lost.kind, message=f"on {host.name}: {back.lost}")
    message = "the suite was told to stop (Ctrl-C or a signal) while this check ran; go on with --resume"
    return Failure(type="Interrupted", message=message)


def _store(
    job: Job, settled: Outcome, folder: Path | None, out: Path, seconds: float, *, stopped: bool = False
) -> Result:
    outcome, problem = keep(folder, add_provenance(settled, job, seconds, ran_here=False), job, out)
    return _result(job, outcome, seconds, out, problem=problem, stopped=stopped)


def _result(
    job: Job, outcome: Outcome, seconds: float, out: Path, *, problem: str = "", stopped: bool = False
) -> Result:
    html = out / f"{job.name}.html"
    is_there = html.is_file()
    return Result(
        job=job,
        outcome=outcome,
        seconds=seconds,
        outcome_file=out / f"{job.name}{OUTCOME}",
        html_file=html if is_there else None,
        report_problem=problem or ("" if is_there else "no report came back; `djinn-checks render` makes it"),
        stopped=stopped,
    )


def _read_log(job: Job, out: Path) -> str:
    try:
        return read_text(out / f"{job.name}.log")
    except (OSError, ValueError):
        return ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
