"""What the check of the checks writes of the faults that it planted, and what is read of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict, cast

Verdict = Literal["caught", "MISSED", "not applicable"]


class DoseRow(TypedDict):
    """A smaller dose of a fault."""

    size: float
    caught: bool
    """By the criterion that was named."""
    failed: list[str]
    """Required criteria that are FAIL."""


class FaultRow(TypedDict):
    """A planted fault and what became of it."""

    name: str
    check: str
    breaks: str
    modelled_on: str
    caught_by: str
    """The criterion that was named beforehand."""
    effect: str
    verdict: Verdict
    status: str | None
    """Of the check; None if the fault does not apply to the machine."""
    alarms: list[str]
    """Every required criterion that did not pass."""
    attempts: int
    dose_unit: NotRequired[str]
    doses: NotRequired[list[DoseRow]]
    """From the easiest to catch to the hardest."""


class CleanRow(TypedDict):
    """Runs of a system without a fault."""

    check: str
    says: str
    """What ran."""
    runs: int
    false_alarms: int
    alarms: list[str]
    """What it was accused of."""
    undecided: NotRequired[int]
    doubts: NotRequired[list[str]]
    """Why runs have no verdict."""


class FaultsMeasurements(TypedDict, total=False):
    """All of it. An outcome that stopped early has none of it."""

    faults: list[FaultRow]
    clean: dict[str, CleanRow]


class FaultsTimings(TypedDict):
    """How long runs took, by name."""

    total_s: float
    faults_s: dict[str, float]
    doses_s: dict[str, float]
    clean_s: dict[str, float]


def read(measurements: Mapping[str, Any]) -> FaultsMeasurements:
    """Return the measurements of a faults outcome under their names."""
    return cast(FaultsMeasurements, measurements)
