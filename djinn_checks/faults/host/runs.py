"""The host check on links within host memory, with a defect planted in one of them or in what counts them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from djinn_checks.checks.host.check import check_host
from djinn_checks.checks.host.plan import HostPlan, LinkPlan, plan_stand_ins
from djinn_checks.outcome import Outcome
from djinn_checks.params import HostParams

Change = Callable[[HostPlan], HostPlan]

_DRIVER = "djinn_checks.faults.host.links:open_link"


def run_host(change: Change, *, links: int = 3) -> Callable[[torch.device], Outcome]:
    """Return a function that runs the check on so many stand-ins, changed."""

    def run(device: torch.device) -> Outcome:
        params = HostParams.create(device="cpu", stand_ins=links, stage_s=0.08, rounds=2)
        with tempfile.TemporaryDirectory(prefix="djinn-checks-host-") as folder:
            return check_host(params, plan=change(plan_stand_ins(params, Path(folder))))

    return run


def nothing(plan: HostPlan) -> HostPlan:
    """Leave the links as they are."""
    return plan


def with_defect(number: int, defect: str, **options: float) -> Change:
    """Return a change that gives a link a defect of `links.py`."""

    def change(plan: HostPlan) -> HostPlan:
        links = list(plan.links)
        links[number] = _spoil(links[number], defect, options)
        return replace(plan, links=tuple(links))

    return change


def _spoil(link: LinkPlan, defect: str, options: dict[str, float]) -> LinkPlan:
    return replace(link, opener=_DRIVER, options={**link.options, "defect": defect, **options})


def swapped(one: int, other: int) -> Change:
    """Return a change that has each of two links counted by the other's counters."""

    def change(plan: HostPlan) -> HostPlan:
        links = list(plan.links)
        links[one], links[other] = (
            replace(links[one], source=links[other].source),
            replace(links[other], source=links[one].source),
        )
        return replace(plan, links=tuple(links))

    return change


def together(*changes: Change) -> Change:
    """Return all changes as one."""

    def change(plan: HostPlan) -> HostPlan:
        for each in changes:
            plan = each(plan)
        return plan

    return change
