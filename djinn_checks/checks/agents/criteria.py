"""The rows of the agents check: one agent that sleeps, then many that share a device."""

from __future__ import annotations

from djinn_checks.checks.agents.crowd_criteria import judge_crowd
from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.sleeper_criteria import judge_sleeper
from djinn_checks.checks.agents.unclaimed import skip_unclaimed
from djinn_checks.outcome import Criterion


def judge_evidence(evidence: AgentsEvidence) -> tuple[Criterion, ...]:
    """Return all criteria of the agents check, the sleeper's first."""
    return skip_unclaimed(evidence.params, (*judge_sleeper(evidence), *judge_crowd(evidence)))
