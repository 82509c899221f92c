"""A fault in evidence that is made to measure: the only thing wrong is the planted one."""

from __future__ import annotations

from collections.abc import Callable

import torch

from djinn_checks.checks.conclude import conclude
from djinn_checks.checks.pcie.anatomy import ANATOMY
from djinn_checks.checks.pcie.evidence import PcieEvidence
from djinn_checks.faults.base import Doses, Fault
from djinn_checks.outcome import Outcome, Status


def judge_evidence(make: Callable[[], PcieEvidence]) -> Callable[[torch.device], Outcome]:
    """Return a function that judges evidence made to measure."""

    return lambda device: conclude(ANATOMY, make(), {})


def made(
    *,
    name: str,
    breaks: str,
    modelled_on: str,
    caught_by: str,
    make: Callable[[float], PcieEvidence],
    dose: float,
    unit: str = "",
    smaller: tuple[float, ...] = (),
    effect: Status = Status.FAIL,
) -> Fault:
    """Return a fault in evidence made to measure.

    Args:
        make: gives it with a dose, of `unit`.
        smaller: doses to find the smallest that is caught.
    """

    def run(size: float, device: torch.device) -> Outcome:
        return judge_evidence(lambda: make(size))(device)

    return Fault(
        name=name,
        check="pcie",
        breaks=breaks,
        modelled_on=modelled_on,
        caught_by=caught_by,
        effect=effect,
        run=lambda device: run(dose, device),
        made_up=True,
        doses=Doses(unit=unit, sizes=smaller, run=run) if smaller else None,
    )
