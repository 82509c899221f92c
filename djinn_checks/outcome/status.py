"""What is known about a claim, and how it follows from a row's numbers. Said once, for those who judge and those who
read a judgement back.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Any

Observed = float | int | str | bool | None


class Status(enum.StrEnum):
    """What is known about a claim. Only PASS is green."""

    PASS = "PASS"
    """Measured, and the claim holds."""
    FAIL = "FAIL"
    """Measured, and the claim does not hold."""
    INCONCLUSIVE = "INCONCLUSIVE"
    """Not decided: evidence missing, noise above the threshold, or the wrong hardware."""
    ERROR = "ERROR"
    """The check itself crashed, timed out or was killed."""
    SKIP = "SKIP"
    """Not asked for; the reason says why."""


_WORST_FIRST = (Status.ERROR, Status.FAIL, Status.INCONCLUSIVE, Status.PASS)

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda observed, threshold: observed < threshold,
    "<=": lambda observed, threshold: observed <= threshold,
    ">": lambda observed, threshold: observed > threshold,
    ">=": lambda observed, threshold: observed >= threshold,
    "==": lambda observed, threshold: observed == threshold,
}


def worst(statuses: Iterable[Status]) -> Status:
    """Return the status that decides: ERROR beats FAIL beats INCONCLUSIVE beats PASS.

    SKIP does not count. Nothing that counts is no evidence, and no evidence is INCONCLUSIVE.
    """
    found = set(statuses)
    return next((status for status in _WORST_FIRST if status in found), Status.INCONCLUSIVE)


def decide(
    observed: Observed, comparison: str, threshold: Observed, *, floor: Observed = None, instrument: bool = False
) -> Status:
    """Return the status that follows from a row's numbers.

    Args:
        observed: the measured value. None is INCONCLUSIVE; NaN meets no threshold.
        comparison: one of ``< <= > >= ==``, read as "observed comparison threshold".
        floor: the same statistic of the reference against itself. One that does not meet the threshold makes the row
            INCONCLUSIVE: the ruler is coarser than the claim.
        instrument: whether the row is about an instrument. One that cannot be trusted is missing evidence,
            INCONCLUSIVE, and no claim that is false.

    Raises:
        TypeError: the values have no order, as a text and a number.
    """
    holds = COMPARISONS[comparison]
    if observed is None or (floor is not None and not holds(floor, threshold)):
        return Status.INCONCLUSIVE
    if holds(observed, threshold):
        return Status.PASS
    return Status.INCONCLUSIVE if instrument else Status.FAIL
