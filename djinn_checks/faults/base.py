"""A fault: a defect planted on purpose, with the criterion that must catch it named beforehand.

Faults wrap systems and evidence from outside. Neither the engine nor the checks contain a line for their sake.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import torch

from djinn_checks.errors import ParamsError
from djinn_checks.faults.names import ENTRY_POINT_GROUP, say_there_is_none
from djinn_checks.outcome import Outcome, Status


@dataclass(frozen=True, kw_only=True)
class Doses:
    """A defect in several sizes. They are tried in turn; what they show is measured, and none has to be caught."""

    unit: str
    """What a dose counts: "tokens", "s", "share of the KV"."""
    sizes: tuple[float, ...]
    """From the easiest to catch to the hardest."""
    run: Callable[[float, torch.device], Outcome]
    """Runs the check with the defect in a size."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One planted defect."""

    name: str
    check: str
    """The check that must catch it: logits, pcie, agents or host."""
    breaks: str
    """What it breaks, in one sentence."""
    modelled_on: str
    """The real defect that it stands for, with its place where that is known."""
    caught_by: str
    """The criterion that must catch it."""
    run: Callable[[torch.device], Outcome]
    """Runs the check with the defect in place."""
    effect: Status = Status.FAIL
    """What the criterion must say. INCONCLUSIVE for a defect of an instrument: it must not be believed."""
    says: str = ""
    """What the criterion's reason has to mention, where another defect would make it say the same."""
    attempts: int = 1
    """How often it is tried: more than once for a defect that bites at random."""
    applies: Callable[[torch.device], bool] = lambda device: True
    """Whether it can be planted on this device."""
    made_up: bool = False
    """Planted in evidence that is made to measure: a check judges it, and no system, link or server runs."""
    doses: Doses | None = None
    """Smaller ones of the same defect, to find the smallest that is still caught; None where it has no size."""


def is_caught(fault: Fault, outcome: Outcome) -> bool:
    """Tell whether the named criterion caught it. A crash catches nothing, and neither does a passed check."""
    if outcome.status in (Status.PASS, Status.ERROR):
        return False
    rows = (row for row in outcome.criteria if row.name == fault.caught_by)
    return any(row.status is fault.effect and fault.says in row.reason for row in rows)


def find_faults(checks: Collection[str] = (), name: str | None = None) -> list[Fault]:
    """Return the faults that are registered: all, those of some checks, or the one of a name.

    Raises:
        ParamsError: there is none such.
    """
    every: dict[str, Fault] = {}
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        found: Mapping[str, Any] = entry.load()
        every |= found
    chosen = [fault for fault in every.values() if (not checks or fault.check in checks) and name in (None, fault.name)]
    if not chosen:
        raise ParamsError(say_there_is_none(checks, name, {fault.name: fault.check for fault in every.values()}))
    return chosen
