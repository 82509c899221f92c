"""How far an agent's answer in the crowd is from its twin's, and how far it may be.

A server that computes many requests in one batch, or a prompt in other parts than before, rounds otherwise; at a place
where two tokens are nearly as likely another one may then be said, and all after it differs. So answers are compared up
to the first token that differs, and there by how sure the twin was. What rounding does is measured in the same run: no
first turn was ever restored, whatever is wrong with restores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from djinn_checks.checks.agents.answer_distance import differing_tokens, distance, turn_distance
from djinn_checks.checks.agents.crowd import CrowdRun
from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.pool.run import served_beyond
from djinn_checks.checks.agents.power import rate_excluded
from djinn_checks.checks.agents.sleeper import SleeperRun

GROSS = 0.5
"""Nats. Rounding of 16-bit numbers seldom moves a log-probability so far, another session's KV moves most more."""
_TIMES_NOISE = 4.0
"""The largest of some thousand differences may be so much larger than the largest of some dozens."""
_OTHERS = 8
"""Agents whose answers are held against an agent's, to see whether they are told apart."""


@dataclass(frozen=True, kw_only=True)
class TurnDistance:
    """How far a turn in the crowd is from its twin's."""

    agent: int
    turn: int
    nats: float | None
    """None if the server gives no log-probabilities."""
    is_same: bool = True
    """Whether the same was said, whatever is known of its log-probabilities."""
    end_s: float = 0.0
    """CLOCK_MONOTONIC when its last token came."""
    may_be_restored: bool = True
    """Whether KV of it may have come from the host: it is no first turn, or one that begins as others did before."""
    is_disturbed: bool = False
    """Whether it, or one before it in its session, was asked by a second client too."""


def distances(crowd: CrowdRun, *, is_pool: bool) -> list[TurnDistance]:
    """Return every answered turn's distance from its twin's, those of second clients last.

    Args:
        is_pool: whether sessions that begin alike share what is cached.
    """
    first_disturbed: dict[int, int] = {}
    for second in crowd.seconds:
        first_disturbed[second.agent] = min(second.turn, first_disturbed.get(second.agent, second.turn))
    own = [
        (agent, turn, reply, turn >= first_disturbed.get(agent, turn + 1))
        for agent, replies in enumerate(crowd.replies)
        for turn, reply in enumerate(replies)
    ]
    asked_twice = [(second.agent, second.turn, second.reply, True) for second in crowd.seconds if second.reply]
    return [
        TurnDistance(
            agent=agent,
            turn=turn,
            nats=turn_distance(reply, twin := crowd.twin_of(agent)[turn]),
            is_same=reply.ids == twin.ids and reply.text == twin.text,
            end_s=reply.end_s,
            may_be_restored=turn > 0 or (is_pool and crowd.scripts[agent % len(crowd.scripts)].shared_tokens > 0),
            is_disturbed=is_disturbed,
        )
        for agent, turn, reply, is_disturbed in (*own, *asked_twice)
    ]


def noise(evidence: AgentsEvidence, found: Sequence[TurnDistance]) -> float | None:
    """Return what rounding makes of a log-probability here, in nats; None if that is not known.

    Of turns that were never restored, and on a server that keeps blocks also between the sleeper's twins, one of which
    was computed in one part. If more came from a cache than a session had fed back, the other is the one that kept its
    prompts alone. What is gross is no rounding.
    """
    first = _never_restored(found)
    known = [nats for nats in first if nats <= GROSS]
    if not known:
        return None
    run = evidence.sleeper
    kept = run.part if served_beyond(run) > 0 else run.hot[1:]
    parts = distance(kept, run.cold) if evidence.pool and len(kept) == len(run.cold) > 0 else None
    return max(*known, parts if parts is not None and parts <= GROSS else 0.0, 0.0)


def limit(of_noise: float) -> float:
    """Return how far a restored turn may be from its twin's, in nats."""
    return min(_TIMES_NOISE * of_noise, GROSS)


def may_be_rounding(found: Sequence[TurnDistance]) -> float:
    """Return the nats up to which a difference is no proof that something is wrong: half a nat, or more.

    A logit of 32 and more has a grid of a quarter in bfloat16, so a model that is sure of its words is rounded by half
    a nat and more. More is allowed for where half of the turns that were never restored are as far from the twins'. But
    these are the server's own words: what is allowed for so accuses nobody, and passes nothing.
    """
    first = _never_restored(found)
    return max(GROSS, _TIMES_NOISE * median_low(first)) if first else GROSS


def _never_restored(found: Sequence[TurnDistance]) -> list[float]:
    first = [turn.nats for turn in found if not turn.may_be_restored and not turn.is_disturbed]
    return [nats for nats in first if nats is not None and nats < math.inf]


def why_unsteady(run: SleeperRun, found: Sequence[TurnDistance]) -> str:
    """Return why turns that say something else than their twins, and give no log-probabilities to see by how much,
    accuse nobody; empty if they do, or if there are none.

    They do if the server says the same twice and more of them differ than rounding may be said to have changed, of
    which first turns, none of which differs, give the bound.
    """
    wrong = [turn for turn in found if turn.nats is None and not turn.is_same]
    if not wrong:
        return ""
    first = [turn for turn in found if not turn.may_be_restored and not turn.is_disturbed]
    if differing_tokens(run.again, run.hot) or not all(turn.is_same for turn in first):
        return (
            f"{len(wrong)} turns say something else than their twins, and the server does not say the same twice where "
            "nothing was restored either; with log-probabilities it would be seen by how much"
        )
    later = len(found) - len(first)
    if len(wrong) > rate_excluded(len(first)) * later:
        return ""
    return (
        f"{len(wrong)} of {later} turns say something else than their twins, and the server gives no log-probabilities "
        f"to see by how much; that rounding seldom does so is not shown by {len(first)} turns that were never "
        "restored; have it give them, or ask for more agents"
    )


def taken_for_own(crowd: CrowdRun, most: float | None) -> float | None:
    """Return the share of other agents' answers that would pass as an agent's own; None if there is nobody else.

    The twins were alone, so these are what a mix-up would look like, in turns that may have been restored.

    Args:
        most: nats that an answer may be from the twin's; None: it may be in nothing but its log-probabilities.
    """
    count = len(crowd.scripts)
    pairs = [
        (own, other)
        for agent in range(count)
        for step in range(1, min(count, _OTHERS + 1))
        for own, other in zip(crowd.twin_of(agent)[1:], crowd.twin_of((agent + step) % count)[1:], strict=False)
    ]
    if most is None:
        passing = [own.ids == other.ids and own.text == other.text for own, other in pairs]
    else:
        apart = [turn_distance(other, own) for own, other in pairs]
        passing = [nats <= most for nats in apart if nats is not None]
    return sum(passing) / len(passing) if passing else None


def judged_turns(found: Sequence[TurnDistance]) -> list[TurnDistance]:
    """Return the turns that are held to the limit: those of known distance that may have been restored."""
    return [turn for turn in found if turn.may_be_restored and turn.nats is not None]
