"""What the check of the checks writes of the faults that it planted, and what is read of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    turns: NotRequired[int | None]
    """How many turns of agents it took until one said something wrong; None if something else was. Older outcomes lack
    it."""
    made_up: NotRequired[bool]
    """Planted in evidence that is made to measure, while no system ran. Older outcomes do not say."""
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
    made_up: NotRequired[bool]
    """Evidence that is made to measure was judged, and no system ran. Older outcomes do not say."""
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


Found = Sequence[tuple[bool, bool]]
"""Of each fault or clean run: whether it was made up, no system running; and whether an alarm was raised."""


def summarize_faults(planted: Found, escaped: str, clean: Found, undecided: int) -> str:
    """Return in one sentence what was caught; what was planted in evidence made to measure is said apart.

    Args:
        escaped: the names of the faults that were not caught.
        undecided: how many clean runs have no verdict.
    """
    text = f"caught {count_faults(planted)}"
    text += f"; escaped: {escaped}" if escaped else ", each by the criterion that was named beforehand"
    text += f"; {count_false_alarms(clean)}"
    return f"{text}, {undecided} of them without a verdict" if undecided else text


def count_faults(planted: Found) -> str:
    """Return how many of how many faults were caught: those that ran, and those in made-up evidence."""
    ran, made_up = ([caught for made, caught in planted if made is kind] for kind in (False, True))
    if not made_up:
        return f"{sum(ran)} of {len(ran)} planted faults"
    made = f"{sum(made_up)} of {len(made_up)} in made-up evidence"
    return f"{sum(ran)} of {len(ran)} faults planted in a run and {made}" if ran else f"{made} (no system ran)"


def count_false_alarms(clean: Found) -> str:
    """Return how many false alarms there were in how many clean runs: of a system, and of made-up evidence."""
    ran, made_up = ([alarm for made, alarm in clean if made is kind] for kind in (False, True))
    text = f"{_alarms(ran)} in {len(ran)} clean runs"
    if not made_up:
        return text
    made = f"in {len(made_up)} pieces of made-up evidence"
    if not ran or sum(ran) == sum(made_up) == 0:
        return f"{_alarms(made_up)} {made}" if not ran else f"{text} and {made}"
    return f"{text}, {sum(made_up)} {made}"


def _alarms(found: Sequence[bool]) -> str:
    return f"{sum(found)} false alarm{'' if sum(found) == 1 else 's'}"
