"""The faults as a check of the checks: one criterion per fault, and one for the false alarms of each clean system."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from djinn_checks.checks.settle import Progress, read_environment
from djinn_checks.devices import choose_device
from djinn_checks.faults.base import find_faults
from djinn_checks.faults.clean import CLEAN
from djinn_checks.faults.matrix import FaultResult, Matrix, fill_matrix
from djinn_checks.faults.tasks import Ran, how_many_at_once
from djinn_checks.measurements.faults import (
    CleanRow,
    FaultRow,
    FaultsMeasurements,
    FaultsTimings,
    summarize_faults,
)
from djinn_checks.outcome import Criterion, Outcome, Status, judge, settle, skip
from djinn_checks.params import FaultsParams


def check_faults(params: FaultsParams, *, progress: Progress | None = None, at_once: int | None = None) -> Outcome:
    """Plant faults and decide whether the checks catch them on this machine, and nothing else.

    Args:
        progress: told of each run.
        at_once: how many runs at a time, in processes of their own; 0: here, one after the other; None: what suits
            the machine.

    Raises:
        ParamsError: there is no such fault.
        SystemUnavailableError: a GPU was asked for by name and is not there.
    """
    faults = find_faults(params.of, params.fault or None)
    started_at, started = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    device = choose_device(params.device)
    matrix = fill_matrix(
        faults,
        device,
        clean_runs=params.clean_runs,
        doses=params.doses,
        at_once=how_many_at_once(device) if at_once is None else at_once,
        progress=progress,
    )
    names = [name for name, clean in CLEAN.items() if clean.check in {fault.check for fault in faults}]
    criteria = (
        *(_row(result) for result in matrix.results),
        *(_clean(name, matrix.clean.get(name, ()), params) for name in names),
    )
    return Outcome(
        check="faults",
        status=settle(criteria),
        summary=_summarize(matrix),
        criteria=criteria,
        measurements=FaultsMeasurements(
            faults=[_plain(result, matrix.doses.get(result.fault.name, ())) for result in matrix.results],
            clean={name: _count(name, matrix.clean.get(name, ())) for name in names},
        ),
        params=params.model_dump(),
        environment=read_environment(device),
        timings=_timings(matrix, time.monotonic() - started),
        started_at=started_at,
    )


def _row(result: FaultResult) -> Criterion:
    fault = result.fault
    title = f"{fault.breaks} To be caught by {fault.caught_by}."
    if result.verdict == "not applicable":
        return skip(fault.name, title, unit="faults", reason=result.reason)
    attempts = "1 attempt" if result.attempts == 1 else f"{result.attempts} attempts"
    told = "" if result.turns is None else f", and after {result.turns} turns of agents"
    row = judge(
        fault.name,
        title,
        "caught" if result.verdict == "caught" else "escaped",
        "==",
        "caught",
        unit="",
        evidence=f"the {fault.check} check, with this fault planted, in {attempts}{told}",
        failed=result.reason,
    )
    return replace(row, reason=f"{fault.caught_by}: {result.reason}") if row.status is Status.PASS else row


def _clean(name: str, ran: Sequence[Ran], params: FaultsParams) -> Criterion:
    clean = CLEAN[name]
    title = f"The {clean.check} check lets a system without a fault be, every time"
    if params.clean_runs == 0:
        return skip(f"{name}_false_alarms", title, unit="runs", reason="no clean run was asked for")
    wrong, undecided = [run for run in ran if run.caught], [run for run in ran if run.undecided]
    open_still = undecided and not wrong
    return judge(
        f"{name}_false_alarms",
        title,
        None if open_still else len(wrong),
        "==",
        0,
        unit="runs",
        evidence=f"{len(ran)} runs: {clean.says}",
        missing=f"{len(undecided)} of {len(ran)} runs have no verdict: {undecided[0].reason}" if open_still else "",
        failed="; ".join(run.reason for run in wrong[:2]),
    )


def _summarize(matrix: Matrix) -> str:
    """Return the counts; what was planted in evidence that is made to measure is said apart from what ran."""
    planted = [(result.fault.made_up, result.verdict == "caught") for result in matrix.results
               if result.verdict != "not applicable"]  # fmt: skip
    escaped = ", ".join(result.fault.name for result in matrix.results if result.verdict == "MISSED")
    runs = [(CLEAN[name].made_up, run.caught) for name, ran in matrix.clean.items() for run in ran]
    undecided = sum(run.undecided for ran in matrix.clean.values() for run in ran)
    alarms = [run.reason for ran in matrix.clean.values() for run in ran if run.caught]
    return summarize_faults(planted, escaped, runs, undecided) + (f"; first alarm: {alarms[0]}" if alarms else "")


def _plain(result: FaultResult, doses: Sequence[Ran]) -> FaultRow:
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
        "turns": result.turns,
        "made_up": fault.made_up,
        "dose_unit": fault.doses.unit if fault.doses else "",
        "doses": [{"size": dose.task.size, "caught": dose.caught, "failed": list(dose.failed)} for dose in doses],
    }


def _count(name: str, ran: Sequence[Ran]) -> CleanRow:
    clean = CLEAN[name]
    return {
        "check": clean.check,
        "says": clean.says,
        "runs": len(ran),
        "false_alarms": sum(run.caught for run in ran),
        "alarms": [run.reason for run in ran if run.caught],
        "made_up": clean.made_up,
        "undecided": sum(run.undecided for run in ran),
        "doubts": [run.reason for run in ran if run.undecided],
    }


def _timings(matrix: Matrix, total_s: float) -> FaultsTimings:
    clean = {name: [run.seconds for run in ran] for name, ran in matrix.clean.items()}
    return {
        "total_s": total_s,
        "faults_s": {result.fault.name: result.seconds for result in matrix.results},
        "doses_s": {name: sum(run.seconds for run in ran) for name, ran in matrix.doses.items()},
        "clean_s": {name: sum(seconds) / len(seconds) for name, seconds in clean.items()},
    }
