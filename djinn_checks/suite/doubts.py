"""What speaks against an outcome that a run wrote, seen from outside of the kernel that wrote it.

The system that is judged shares a process with its judge, and may change what the judge says. So the file is held
against what the runner knows by itself: what was asked for and when, what the rows come to, what the notebook showed,
and the readings that the PCIe check's instrument left. What holds no water is an ERROR, never a verdict.
"""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from djinn_checks.errors import OutcomeError
from djinn_checks.outcome import Failure, Outcome, Status, settle
from djinn_checks.processes import module_command, tied
from djinn_checks.report.load import find_outcome

_CLOCK = timedelta(seconds=5)
"""What the machine's clock may be set back or forth by while a check runs."""
_OLD_ROUTE = "save_to"
"""Outcomes once told among their params where they were saved, which says nothing about the run."""
_RECOUNT_S = 300.0
_REMEDY = "the system under check, or what it started, may have written it: run it by itself, and look at its code"


def find_doubt(outcome: Outcome, *, asked: dict[str, Any], started: str, notebook: Path, outcome_file: Path) -> str:
    """Return why the outcome that a run wrote is not believed; empty if nothing speaks against it.

    Args:
        asked: the parameters of this run, as the check takes them.
        started: when it began, UTC, ISO 8601.
        notebook: as executed.
        outcome_file: where the outcome lies, with what the check keeps beside it.
    """
    return (
        _of_params(outcome, asked)
        or _of_time(outcome.started_at, started)
        or _of_rows(outcome)
        or _of_notebook(outcome, notebook)
        or _of_readings(outcome, outcome_file)
    )


def refuse(doubt: str, output: str) -> Failure:
    """Return what is said of an outcome against which that speaks, with the last output of its run."""
    message = f"the outcome that this run wrote is not believed: {doubt}; {_REMEDY}"
    return Failure(type="Contradiction", message=message, traceback=output)


def only_params(params: Any) -> dict[str, Any]:
    """Return an outcome's parameters, as the check takes them."""
    return {name: value for name, value in params.items() if name != _OLD_ROUTE}


def _of_params(outcome: Outcome, asked: dict[str, Any]) -> str:
    said, nothing = only_params(outcome.params), object()
    names = sorted(name for name in {*said, *asked} if said.get(name, nothing) != asked.get(name, nothing))
    if not names:
        return ""
    told = ", ".join(f"{name} = {said.get(name)!r:.80} and not {asked.get(name)!r:.80}" for name in names[:3])
    return f"it says that it was made with {told}, as this run was asked for"


def _of_time(said: str, started: str) -> str:
    try:
        begun = datetime.fromisoformat(said)
        is_now = datetime.fromisoformat(started) - _CLOCK <= begun <= datetime.now(UTC) + _CLOCK
    except (TypeError, ValueError):  # no date, or one without a time zone
        is_now = False
    return "" if is_now else f"it says that its check began at {said!r:.80}, and this run began at {started}"


def _of_rows(outcome: Outcome) -> str:
    status = settle(outcome.criteria)
    return "" if status is outcome.status else f"it says {outcome.status}, and its rows come to {status}"


def _of_notebook(outcome: Outcome, notebook: Path) -> str:
    try:
        shown = find_outcome(json.loads(notebook.read_text(encoding="utf-8")))
    except (OSError, ValueError, OutcomeError) as error:
        return f"the notebook of this run cannot be read ({error})"
    if shown is None or shown.to_dict() == outcome.to_dict():
        return ""
    return f"the notebook showed {shown.status} ({shown.summary:.200}), and the file says otherwise"


def _of_readings(outcome: Outcome, outcome_file: Path) -> str:
    """Have the PCIe check judge its instrument's readings once more, in a process of its own."""
    if outcome.check != "pcie" or outcome.params.get("trace") or outcome.params.get("gpus"):
        # No system has a part in a replay; on several GPUs each runs in a process that judges nothing.
        return ""
    if not outcome.measurements.get("windows"):
        return "it says PASS, and there are no readings of the counters" if outcome.status is Status.PASS else ""
    command = tied([*module_command("djinn_checks.checks.pcie.recount"), str(outcome_file)])
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_RECOUNT_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the readings of the counters could not be judged again ({error})"
    if said.returncode == 0:
        return ""
    return said.stdout.strip() or f"the readings of the counters could not be judged again: {said.stderr[-500:]}"
