"""The rows about many agents at once on a server that keeps all KV in one pool."""

from __future__ import annotations

from djinn_checks.checks.agents.crowd import CrowdRun
from djinn_checks.checks.agents.crowd_criteria import judge_everyone, tokens_of
from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.outcome import Criterion, Row


def judge_pool_crowd(evidence: AgentsEvidence) -> list[Criterion]:
    """Return the rows about the crowd; a crowd that was not asked for has none."""
    crowd = evidence.crowd
    if crowd is None:
        return []
    return [_overcommitted(evidence, crowd), _came_back(evidence, crowd), *judge_everyone(evidence, crowd)]


def _overcommitted(evidence: AgentsEvidence, crowd: CrowdRun) -> Criterion:
    row = Row("crowd_overcommits", "All agents' KV together is more than the pool holds", unit="times the pool")
    pool = evidence.pool.pool_tokens if evidence.pool else None
    total = sum(tokens_of(crowd, number) for number in range(len(crowd.scripts)))
    shared = [script.shared_tokens for script in crowd.scripts if script.shared_tokens]
    total -= sum(shared) - max(shared, default=0)  # kept once for all of them
    return row.judge(
        total / pool if pool else None,
        ">",
        1.0,
        evidence=f"{total:,} tokens at the end, {pool or 0:,} in the pool",
        missing="the server does not say how much its pool holds",
        failed="nobody had to make room, and nothing is shown about pressure; start it with a smaller pool, or ask for "
        "more agents",
        instrument=True,  # how many come is the check's affair, and no fault of the server's
    )


def _came_back(evidence: AgentsEvidence, crowd: CrowdRun) -> Criterion:
    """A pool may be too small for all agents and yet have room for those that still ask: then nobody comes back."""
    pool = evidence.pool.pool_tokens if evidence.pool else None
    room = (pool or 0) // evidence.params.agent_prompt_tokens
    least = max(1, (evidence.params.agents - room) // 2)  # some may come back before they were pushed out
    row = Row(
        "crowd_came_back",
        "Sessions came back from outside the device, half as many as the agents that the pool has no room for",
        unit="sessions",
    )
    host = crowd.counts.host if crowd.counts else None
    return row.judge(
        crowd.least_restores() if pool else None,
        ">=",
        least * crowd.rounds,
        evidence=f"{int(host or 0):,} tokens by the server's account, which fill so many sessions at the least; the "
        f"pool has room for {room if pool else 'an unknown number'} of {evidence.params.agents}",
        missing="the server does not say how much its pool holds, or how many tokens came from outside the device",
        failed="nothing is shown about restores under pressure; start it with a smaller pool, or give longer pauses "
        "(think_s) or more agents",
        instrument=True,  # as long as the pauses are short, a server may well have kept who asks again
    )
