"""The rows of the agents check: one agent that sleeps, then many that share a device."""

from __future__ import annotations

from djinn_checks.checks.agents.crowd_criteria import judge_crowd
from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.one_fact import tell_once
from djinn_checks.checks.agents.pool.criteria import judge_pool
from djinn_checks.checks.agents.pool.crowd_criteria import judge_pool_crowd
from djinn_checks.checks.agents.sleeper_criteria import judge_sleeper
from djinn_checks.checks.agents.unclaimed import skip_unclaimed
from djinn_checks.outcome import Criterion


def judge_evidence(evidence: AgentsEvidence) -> tuple[Criterion, ...]:
    """Return all criteria of the agents check, the sleeper's first."""
    if evidence.pool is not None:
        return tell_once((*judge_pool(evidence, evidence.pool), *judge_pool_crowd(evidence)), is_pool=True)
    rows = (*judge_sleeper(evidence), *judge_crowd(evidence))
    return skip_unclaimed(evidence.params, tell_once(rows, is_pool=False))
