"""Runs faults and clean systems, and says which criterion caught which."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from djinn_checks.faults.base import Fault, is_caught
from djinn_checks.faults.logits import run_logits
from djinn_checks.faults.pcie import judge_evidence
from djinn_checks.faults.traffic import make_evidence
from djinn_checks.outcome import Failure, Outcome, Status
from djinn_checks.systems.ring import RingSystem

Verdict = Literal["caught", "MISSED", "not applicable"]

CLEAN: dict[str, Callable[[torch.device], Outcome]] = {
    "logits": run_logits(RingSystem),
    "pcie": judge_evidence(make_evidence),
}
"""What each check's faults are planted in, without any."""


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
    reason: str = ""
    """What the criterion that caught it said, or why nothing did."""


def plant(faults: Iterable[Fault], device: torch.device) -> Iterator[FaultResult]:
    """Plant faults one after the other; each is tried until it is caught or its attempts are used up."""
    for fault in faults:
        started = time.monotonic()
        if not fault.applies(device):
            yield FaultResult(
                fault=fault, verdict="not applicable", status=None, alarms=(), attempts=0, seconds=0.0,
                reason=f"not on {device.type}",
            )  # fmt: skip
            continue
        outcome, tried = _run(fault, device), 1
        while not is_caught(fault, outcome) and tried < fault.attempts:
            outcome, tried = _run(fault, device), tried + 1
        yield FaultResult(
            fault=fault,
            verdict="caught" if is_caught(fault, outcome) else "MISSED",
            status=outcome.status,
            alarms=_alarms(outcome),
            attempts=tried,
            seconds=time.monotonic() - started,
            reason=_reason(fault, outcome),
        )


def _run(fault: Fault, device: torch.device) -> Outcome:
    """Run the check; a fault that cannot even be planted is an ERROR, and catches nothing."""
    try:
        return fault.run(device)
    except Exception as error:
        summary = f"{fault.name} could not be planted: {error}"
        return Outcome(check=fault.check, status=Status.ERROR, summary=summary, failure=Failure.from_exception(error))


def count_false_alarms(check: str, runs: int, device: torch.device) -> int:
    """Run a clean system over and over and return how often the check did not pass it.

    Raises:
        KeyError: there is no clean run for that check.
    """
    return sum(CLEAN[check](device).status is not Status.PASS for _ in range(runs))


def _alarms(outcome: Outcome) -> tuple[str, ...]:
    quiet = (Status.PASS, Status.SKIP)
    return tuple(row.name for row in outcome.criteria if row.required and row.status not in quiet)


def _reason(fault: Fault, outcome: Outcome) -> str:
    if outcome.failure is not None:
        return f"the check crashed, which catches nothing: {outcome.failure.type}: {outcome.failure.message}"
    row = next((row for row in outcome.criteria if row.name == fault.caught_by), None)
    return f"{fault.caught_by} was not judged" if row is None else row.reason or f"{row.name} is {row.status}"
