"""A system's answer beside the reference's, where the two can be compared: position by position, in one data type.

A system may answer in a wider data type than its weights have, or give the logits of the last positions alone, as
servers do. What it gives is compared; what it does not give is counted, and is no evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from djinn_checks.checks.logits.statistics import LogitStatistics, ReferencePositions


@dataclass(frozen=True)
class Answer:
    """What came of comparing one prompt."""

    first_position: int | None
    """The first position with an unequal element, from 0; None if all that came are equal."""
    missing: int
    """Positions without logits of the system, the first ones of the prompt."""
    rounded_from: str
    """Data type of the system's logits if it is wider than the reference's; empty: the same."""


def compare_answers(
    statistics: LogitStatistics, reference: Tensor, system: Tensor, positions: ReferencePositions
) -> Answer:
    """Add one prompt to the statistics of a phase, as far as the system answered.

    Args:
        reference: [T, V].
        system: [t, V] with 1 <= t <= T: logits of the last t positions, in the reference's data type or a wider one.

    Raises:
        ValueError: there are more positions, none, another vocabulary, or a narrower data type.
    """
    missing = len(reference) - len(system) if len(system) else 0
    is_wider = torch.promote_types(reference.dtype, system.dtype) == system.dtype != reference.dtype
    answered = system.to(reference.dtype) if is_wider else system
    offset = max(0, missing)
    compared = statistics.add(reference[offset:], answered, positions.slice(offset, len(reference)))
    place = compared.first_position
    rounded_from = str(system.dtype).removeprefix("torch.") if is_wider else ""
    return Answer(None if place is None else place + offset, offset, rounded_from)
