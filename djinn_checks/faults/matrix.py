"""Faults against criteria: which caught which, down to which dose, and what clean systems were accused of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from djinn_checks.checks.settle import Progress
from djinn_checks.faults.base import Fault
from djinn_checks.faults.clean import CLEAN
from djinn_checks.faults.tasks import Ran, Task, run_tasks
from djinn_checks.outcome import Status

Verdict = Literal["caught", "MISSED", "not applicable"]


@dataclass(frozen=True, kw_only=True)
class FaultResult:
    """What became of a planted fault."""

    fault: Fault
    verdict: Verdict
    status: Status | None
    """Of the check; None if the fault does not apply here."""
    alarms: tuple[str, ...]
    """Every required criterion that did not pass, in the check's order."""
    attempts: int
    seconds: float
    turns: int | None = None
    """How many an agent took until something wrong was said; None if that is not what was wrong."""
    reason: str = ""
    """What the criterion that caught it said, or why nothing did."""


@dataclass(kw_only=True)
class Matrix:
    """All results, in the order of the faults, doses and runs."""

    results: list[FaultResult] = field(default_factory=list)
    doses: dict[str, list[Ran]] = field(default_factory=dict)
    """By fault, from the easiest dose to the hardest."""
    clean: dict[str, list[Ran]] = field(default_factory=dict)
    """By clean run of `CLEAN`."""


def fill_matrix(
    faults: Sequence[Fault],
    device: torch.device,
    *,
    clean_runs: int,
    doses: bool,
    at_once: int,
    progress: Progress | None = None,
) -> Matrix:
    """Plant all faults and their doses, and run each check's clean systems `clean_runs` times."""
    here = [fault for fault in faults if fault.applies(device)]
    tasks = [Task(kind="fault", name=fault.name) for fault in here]
    if doses:
        sizes = ((fault.name, size) for fault in here if fault.doses for size in fault.doses.sizes)
        tasks += [Task(kind="dose", name=name, size=size) for name, size in sizes]
    names = [name for name, clean in CLEAN.items() if clean.check in {fault.check for fault in faults}]
    tasks += [Task(kind="clean", name=name, size=number) for number in range(clean_runs) for name in names]
    found: dict[Task, Ran] = {}
    for ran in run_tasks(tasks, here, device, at_once):
        found[ran.task] = ran
        if progress is not None:
            progress(ran.task.name, len(found), len(tasks))
    return _arrange(faults, tasks, found, device)


def plant(faults: Sequence[Fault], device: torch.device) -> Iterator[FaultResult]:
    """Plant faults here, one after the other; each is tried until it is caught or its attempts are used up."""
    yield from fill_matrix(faults, device, clean_runs=0, doses=False, at_once=0).results


def _arrange(faults: Sequence[Fault], tasks: Sequence[Task], found: dict[Task, Ran], device: torch.device) -> Matrix:
    matrix = Matrix()
    for task in tasks:
        if task.kind != "fault":
            rows = matrix.doses if task.kind == "dose" else matrix.clean
            rows.setdefault(task.name, []).append(found[task])
    ran = {task.name: found[task] for task in tasks if task.kind == "fault"}
    matrix.results = [_result(fault, ran.get(fault.name), device) for fault in faults]
    return matrix


def _result(fault: Fault, ran: Ran | None, device: torch.device) -> FaultResult:
    if ran is None:
        return FaultResult(
            fault=fault, verdict="not applicable", status=None, alarms=(), attempts=0, seconds=0.0,
            reason=f"not on {device.type}",
        )  # fmt: skip
    return FaultResult(
        fault=fault,
        verdict="caught" if ran.caught else "MISSED",
        status=ran.status,
        alarms=ran.alarms,
        attempts=ran.attempts,
        turns=ran.turns,
        seconds=ran.seconds,
        reason=ran.reason,
    )
