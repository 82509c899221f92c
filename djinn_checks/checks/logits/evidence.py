"""What the logits check knows when its runs are over: what the resident model said, and the system after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from djinn_checks.checks.logits.bench import ReferenceRun, SystemRun
from djinn_checks.checks.logits.prompt_run import Prompt
from djinn_checks.measurements.logits import LogitsStatistics
from djinn_checks.params import LogitsParams

Statistic = Callable[[LogitsStatistics], Any]
"""Takes one figure out of the summary of `LogitStatistics`."""


@dataclass(frozen=True, kw_only=True)
class LogitsEvidence:
    """Everything that the criteria are judged by."""

    params: LogitsParams
    prompts: tuple[Prompt, ...]
    budget_bytes: int
    reference: ReferenceRun
    system: SystemRun

    def worst(self, phase: str, statistic: Statistic) -> Any:
        """Return the largest value of a statistic of `phase` over the passes."""
        return max(statistic(run_pass.statistics[phase]) for run_pass in self.system.passes)

    def floor(self, phase: str, statistic: Statistic) -> Any:
        """Return the same of the reference against itself."""
        return statistic(self.reference.floor[phase])

    @property
    def sample(self) -> str:
        prompts = len(self.reference.positions)
        return f"{len(self.system.passes)} passes of {prompts} prompts, each against the resident model"
