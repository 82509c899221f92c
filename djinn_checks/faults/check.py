"""The faults as a check of the checks: one criterion a fault, and one for the false alarms of each check."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from djinn_checks.checks.frame import read_environment, resolve_device
from djinn_checks.faults.base import find_faults
from djinn_checks.faults.matrix import FaultResult, count_false_alarms, plant
from djinn_checks.outcome import Criterion, Outcome, Status, judge, settle, skip
from djinn_checks.params import FaultsParams

Progress = Callable[[str, int, int], None]
"""Called with a fault's name, the faults done and the faults to do."""


def check_faults(params: FaultsParams, *, progress: Progress | None = None) -> Outcome:
    """Plant faults and decide whether the checks catch them on this machine, and nothing else.

    Raises:
        ParamsError: there is no such fault.
        SystemUnavailableError: a GPU was asked for by name and is not there.
    """
    faults = find_faults(params.of or None, params.fault or None)
    started_at, started = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    device = resolve_device(params.device)
    results = []
    for result in plant(faults, device):
        results.append(result)
        if progress is not None:
            progress(result.fault.name, len(results), len(faults))
    checks = sorted({fault.check for fault in faults})
    alarms = {check: count_false_alarms(check, params.clean_runs, device) for check in checks}
    criteria = (*(_row(result) for result in results), *(_clean(check, alarms[check], params) for check in checks))
    status = settle(criteria)
    return Outcome(
        check="faults",
        status=status,
        summary=_summarize(results, alarms, params),
        criteria=criteria,
        measurements={"faults": [_plain(result) for result in results], "false_alarms": alarms},
        params=params.model_dump(),
        environment=read_environment(device),
        timings={
            "total_s": time.monotonic() - started,
            "faults_s": {result.fault.name: result.seconds for result in results},
        },
        started_at=started_at,
    )


def _row(result: FaultResult) -> Criterion:
    fault = result.fault
    title = f"{fault.breaks} To be caught by {fault.caught_by}."
    if result.verdict == "not applicable":
        return skip(fault.name, title, unit="faults", reason=result.reason)
    row = judge(
        fault.name,
        title,
        "caught" if result.verdict == "caught" else "escaped",
        "==",
        "caught",
        unit="",
        evidence=f"the {fault.check} check, with this fault planted, in {result.attempts} attempt(s)",
        failed=result.reason,
    )
    return replace(row, reason=f"{fault.caught_by}: {result.reason}") if row.status is Status.PASS else row


def _clean(check: str, alarms: int, params: FaultsParams) -> Criterion:
    name, title = f"{check}_false_alarms", f"The {check} check passes a system without a fault, every time"
    if params.clean_runs == 0:
        return skip(name, title, unit="runs", reason="no clean run was asked for")
    evidence = f"{params.clean_runs} runs of the reference system, nothing planted"
    return judge(name, title, alarms, "==", 0, unit="runs", evidence=evidence)


def _summarize(results: Sequence[FaultResult], alarms: dict[str, int], params: FaultsParams) -> str:
    planted = [result for result in results if result.verdict != "not applicable"]
    caught = sum(result.verdict == "caught" for result in planted)
    escaped = ", ".join(result.fault.name for result in planted if result.verdict == "MISSED")
    text = f"caught {caught} of {len(planted)} planted faults"
    text += f", escaped: {escaped}" if escaped else ", each by the criterion that was named beforehand"
    return f"{text}; {sum(alarms.values())} false alarms in {params.clean_runs * len(alarms)} clean runs"


def _plain(result: FaultResult) -> dict[str, Any]:
    fault = result.fault
    return {
        "name": fault.name,
        "check": fault.check,
        "breaks": fault.breaks,
        "modelled_on": fault.modelled_on,
        "caught_by": fault.caught_by,
        "effect": fault.effect.value,
        "verdict": result.verdict,
        "status": None if result.status is None else result.status.value,
        "alarms": list(result.alarms),
        "attempts": result.attempts,
    }
