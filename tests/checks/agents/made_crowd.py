"""Crowds that took place nowhere, whose answers round as they are told to."""

from __future__ import annotations

import random

from djinn_checks.checks.agents.crowd import CrowdRun
from djinn_checks.checks.agents.reply import Reply
from djinn_checks.checks.agents.scripts import AgentScript

TOKENS = 6
"""Of each answer."""


def said(chance: random.Random, *, shift: float = 0.0) -> Reply:
    """Return an answer of which each token is likelier than the next likely one by a nat and more."""
    ids = tuple(chance.randrange(500) for _ in range(TOKENS))
    best = [-chance.uniform(0.1, 1.0) for _ in ids]
    tops = [value for likely in best for value in (likely, likely - chance.uniform(1.0, 2.0))]
    return Reply(ids=ids, logprobs=tuple(best), runners_up=tuple(tops), token_at_s=(1.0,), sent_s=shift)


def moved(reply: Reply, chance: random.Random, nats: float) -> Reply:
    """Return the same answer with every log-probability moved by up to so many nats."""

    def move(values: tuple[float | None, ...]) -> tuple[float | None, ...]:
        return tuple((value or 0.0) + chance.uniform(-nats, nats) for value in values)

    return Reply(ids=reply.ids, logprobs=move(reply.logprobs), runners_up=move(reply.runners_up), token_at_s=(1.0,))


def crowd(agents: int, turns: int, *, nats: float, swapped: tuple[int, int] | None = None, seed: int = 0) -> CrowdRun:
    """Return a crowd that rounds by so many nats; `swapped` is the agent and turn with another's answer."""
    chance = random.Random(seed)
    twins = [tuple(said(chance) for _ in range(turns)) for _ in range(agents)]
    replies = [[moved(reply, chance, nats) for reply in twin] for twin in twins]
    if swapped:
        agent, turn = swapped
        replies[agent][turn] = twins[(agent + 1) % agents][turn]
    scripts = tuple(
        AgentScript(prompt=(1,), follow_ups=(), code_word="", code_ids=(number + 1000,)) for number in range(agents)
    )
    return CrowdRun(
        scripts=scripts, replies=tuple(map(tuple, replies)), twins=tuple(twins), errors=(), samples=(), started_s=0.0,
        ended_s=100.0, restores=agents * (turns - 1),
    )  # fmt: skip
