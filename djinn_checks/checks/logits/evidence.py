"""What the logits check knows when its runs are over: what the resident model said, and the system after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from djinn_checks.checks.logits.bench import Compared, ReferenceRun, Statistics, SystemRun
from djinn_checks.checks.logits.link import LinkEvidence
from djinn_checks.checks.logits.prompt_run import Prompt
from djinn_checks.checks.logits.watch import Watched, WatchPlan
from djinn_checks.measurements.logits import LogitsStatistics
from djinn_checks.params import LogitsParams

Statistic = Callable[[LogitsStatistics], Any]
"""Takes one figure out of the summary of `LogitStatistics`."""


@dataclass(frozen=True, kw_only=True)
class LogitsEvidence:
    """Everything that the criteria are judged by."""

    params: LogitsParams
    prompts: tuple[Prompt, ...]
    plan: WatchPlan
    budget_bytes: int
    reference: ReferenceRun
    system: SystemRun
    link: LinkEvidence
    """What was counted from outside the process."""

    def worst(self, phase: str, statistic: Statistic) -> Any:
        """Return the largest value of a statistic of `phase` over the passes."""
        return max(statistic(run_pass.statistics[phase]) for run_pass in self.system.passes)

    def floor(self, phase: str, statistic: Statistic) -> Any:
        """Return the same of the reference against itself."""
        return statistic(self.reference.floor.statistics[phase])

    def count(self, phase: str, statistic: Statistic) -> int:
        """Return the largest count of `phase` over the passes, the prompts that never came before included."""
        return max(_sum(run_pass.compared, phase, statistic) for run_pass in self.system.passes)

    def count_floor(self, phase: str, statistic: Statistic) -> int:
        """Return the same of the reference against itself."""
        return _sum(self.reference.floor, phase, statistic)

    def missing(self, phase: str) -> int:
        """Return the positions of a pass that the system gave no logits for."""
        return max(run_pass.compared.missing[phase] for run_pass in self.system.passes)

    @property
    def watched(self) -> tuple[Watched, ...]:
        """What was seen by the witness that can name weights."""
        return tuple(found for found in self.system.watched if not found.quiet)

    @property
    def sample(self) -> str:
        passes, new = self.system.passes, len(self.plan.unforeseen)
        rounded = next((run_pass.compared.rounded_from for run_pass in passes if run_pass.compared.rounded_from), "")
        text = f"{len(passes)} passes of {len(self.prompts)} prompts, each against the resident model"
        text += f", and {new} prompts that never came before, one a pass"
        return text + (f"; its {rounded} logits were rounded to {self.params.dtype}" if rounded else "")


def _sum(compared: Compared, phase: str, statistic: Statistic) -> int:
    both: tuple[Statistics, ...] = (compared.statistics, compared.unforeseen)
    return sum(int(statistic(statistics[phase])) for statistics in both)
