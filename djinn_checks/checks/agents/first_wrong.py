"""How many turns it took until one was wrong: what a defect costs to be found, and a rate its crowd.

By log-probabilities alone, held against the limits of the rows about them; of a server that gives none it is not known.
"""

from __future__ import annotations

from djinn_checks.checks.agents.answer_distance import distance
from djinn_checks.checks.agents.crowd import CrowdRun
from djinn_checks.checks.agents.crowd_distance import distances, judged_turns, limit, noise
from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.identity_criteria import sameness_limit
from djinn_checks.measurements.agents import FirstWrong


def find_first_wrong(evidence: AgentsEvidence) -> FirstWrong:
    """Return of the sleeper and of the crowd how many turns had been answered when the first wrong one was."""
    return {
        "sleeper": _of_sleeper(evidence),
        "crowd": _of_crowd(evidence, evidence.crowd) if evidence.crowd else None,
        "crowd_turns": sum(map(len, evidence.crowd.replies)) if evidence.crowd else 0,
    }


def _of_sleeper(evidence: AgentsEvidence) -> int | None:
    run = evidence.sleeper
    most = sameness_limit(run)
    apart = [distance([slept], [hot]) for slept, hot in zip(run.slept, run.hot, strict=False)]
    return next((turn for turn, nats in enumerate(apart, 1) if nats is not None and nats > most), None)


def _of_crowd(evidence: AgentsEvidence, crowd: CrowdRun) -> int | None:
    found = distances(crowd, is_pool=evidence.pool is not None)
    of_noise = noise(evidence, found)
    if of_noise is None:
        return None
    most = limit(of_noise)
    wrong = [turn.end_s for turn in judged_turns(found) if turn.nats is not None and turn.nats > most]
    return sum(turn.end_s <= min(wrong) for turn in found) if wrong else None
