"""How a check's evidence becomes its outcome: in the same way for every check, run or replay.

Each check's folder has the same four parts. `check.py` measures and returns `evidence.py`'s evidence, `criteria.py`
judges it, and `measurements.py` writes it down as plain data and sums it up in a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from djinn_checks.outcome import Criterion, Outcome, Status, settle

Evidence = TypeVar("Evidence")

Facts = dict[str, Any]
"""Fields of the outcome that are known whatever happens: params, environment, started_at."""


@dataclass(frozen=True, kw_only=True)
class Anatomy(Generic[Evidence]):
    """A check's name, and what it makes of its evidence."""

    check: str
    judge_evidence: Callable[[Evidence], tuple[Criterion, ...]]
    gather_measurements: Callable[[Evidence], Mapping[str, Any]]
    """Plain data, the same for the same params."""
    summarize: Callable[[Evidence, Sequence[Criterion], Status], str]
    """One sentence with the figure that decides."""
    gather_timings: Callable[[Evidence], Mapping[str, Any]] = lambda evidence: {}
    """What the evidence says that depends on the clock."""


def conclude(
    anatomy: Anatomy[Evidence], evidence: Evidence, facts: Facts, *, timings: Mapping[str, Any] | None = None
) -> Outcome:
    """Judge the evidence of a run and return the outcome.

    Args:
        facts: fields of the outcome that do not come from the evidence.
        timings: what the check timed of its own work.
    """
    criteria = anatomy.judge_evidence(evidence)
    status = settle(criteria)
    return Outcome(
        check=anatomy.check,
        status=status,
        summary=anatomy.summarize(evidence, criteria, status),
        criteria=criteria,
        measurements=anatomy.gather_measurements(evidence),
        timings={**anatomy.gather_timings(evidence), **(timings or {})},
        **facts,
    )


def conclude_early(check: str, criterion: Criterion, summary: str, facts: Facts) -> Outcome:
    """Return the outcome of a run that one criterion ended before there was evidence for the others."""
    return Outcome(check=check, status=settle([criterion]), summary=summary, criteria=(criterion,), **facts)
