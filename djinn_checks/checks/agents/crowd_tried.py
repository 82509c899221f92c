"""What a crowd tried, and what it did not: a verdict says nothing of what nobody did."""

from __future__ import annotations

from djinn_checks.checks.agents.crowd import CrowdRun
from djinn_checks.checks.agents.evidence import AgentsEvidence

_OF_A_POOL = " (for servers with a pool)"


def tell_tried(evidence: AgentsEvidence, crowd: CrowdRun) -> str:
    """Return in one sentence under what pressure the agents were, and under which they were not."""
    done: list[str] = []
    left: list[str] = []
    _sort(done, left, crowd.scripts and max(len(script.follow_ups) for script in crowd.scripts) > 1, "several pauses")
    is_burst = evidence.params.burst > 1
    _sort(done, left, is_burst, f"arrivals of {evidence.params.burst} at once" if is_burst else "bursts of arrivals")
    sharing = sum(script.shared_tokens > 0 for script in crowd.scripts)
    _sort(done, left, sharing > 1, f"{sharing} prompts that begin alike" if sharing > 1 else "prompts that begin alike")
    note = "" if evidence.pool else _OF_A_POOL
    cancelled = sum(second.is_cancelled for second in crowd.seconds)
    told = f"{cancelled} requests that were cancelled" if cancelled else f"cancelled requests{note}"
    _sort(done, left, cancelled, told)
    twice = sum(second.reply is not None for second in crowd.seconds)
    told = f"{twice} turns asked by two clients" if twice else f"one session asked by two clients{note}"
    _sort(done, left, twice, told)
    refused = sum(bool(second.refused) for second in crowd.seconds)
    if refused:
        done.append(f"{refused} second clients that were refused")
    said = f"; tried: {', '.join(done)}" if done else ""
    return f"{said}; not tried: {', '.join(left)}" if left else said


def _sort(done: list[str], left: list[str], was_tried: object, told: str) -> None:
    (done if was_tried else left).append(told)
