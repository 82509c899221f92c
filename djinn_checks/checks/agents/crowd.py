"""Many agents at once: they arrive at random, think between their turns, and none leaves before all are done.

Arrivals are a Poisson process, of one agent or of several at the same moment; think times are uniform. Before them
every agent's twin takes the same turns alone, one right after the other: that gives the texts to compare with, and what
a turn takes when nothing has to wait. Some turns are asked by a second client as well, which stays or goes away in the
middle of the answer. Times are the client's.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from djinn_checks.checks.agents.client import AgentClient
from djinn_checks.checks.agents.pool.client import PoolClient
from djinn_checks.checks.agents.pool.counts import Counts, read_block_tokens
from djinn_checks.checks.agents.reply import Reply
from djinn_checks.checks.agents.scripts import AgentScript, end_on_block, session_of
from djinn_checks.checks.agents.sleeper import SETTLE_S, extend
from djinn_checks.errors import InstrumentError
from djinn_checks.models.open import Model

_POLL_S = 0.1
_GROUP = "crowd"
"""Of the sessions whose prompts begin alike: on a server that shares cached prefixes they share theirs."""


@dataclass(frozen=True, kw_only=True)
class StateSample:
    """What the server said about all sessions at one time."""

    asked_s: float
    answered_s: float
    states: dict[str, str]
    """State by session."""


@dataclass(frozen=True, kw_only=True)
class Second:
    """What came of a second client, that asked a turn while its session's own one did."""

    agent: int
    turn: int
    reply: Reply | None
    """None if it went away before all of it had come, or was refused."""
    refused: str = ""
    """What it was told in place of an answer."""

    @property
    def is_cancelled(self) -> bool:
        """Whether it went away."""
        return self.reply is None and not self.refused


@dataclass(kw_only=True)
class CrowdRun:
    """What happened."""

    scripts: tuple[AgentScript, ...]
    replies: tuple[tuple[Reply, ...], ...]
    """By agent and turn; fewer where an agent failed."""
    twins: tuple[tuple[Reply, ...], ...]
    """The same turns, taken alone."""
    errors: tuple[str, ...]
    samples: tuple[StateSample, ...]
    started_s: float
    """`SETTLE_S` after the last twin."""
    ended_s: float
    """Before the first session was closed."""
    swaps: int | None = None
    restores: int | None = None
    """Counted by the server, over all sessions; None if it does not say."""
    rounds: int = 1
    """How often all agents came; agent `number` of round `r` is `r` times their number further on in `replies`."""
    seconds: tuple[Second, ...] = ()
    """Clients that asked a turn beside its session's own."""
    counts: Counts | None = None
    """What a server with a pool counted meanwhile."""

    @property
    def offered_load(self) -> float | None:
        """Return the work offered over the time in which it was offered: the time that all turns take alone
        over the time from the first request to the last. Above 1 the queue grows for as long as it lasts."""
        sent = [reply.asked_s for replies in self.replies for reply in replies]
        alone = sum(reply.end_s - reply.sent_s for replies in self.twins for reply in replies)
        span = max(sent, default=0.0) - min(sent, default=0.0)
        return alone / span if span > 0 else None

    def twin_of(self, agent: int) -> tuple[Reply, ...]:
        """Return the turns that an agent's twin took; they are the same in every round."""
        return self.twins[agent % len(self.twins)]

    def wakes(self) -> list[Reply]:
        """Return the turns that followed a pause."""
        return [reply for replies in self.replies for reply in replies[1:]]

    def least_restores(self) -> int | None:
        """Return how many sessions came back at the least; None if the server does not say.

        A server with a pool counts the tokens that came from the host: as many sessions as they fill the largest one,
        without what may have come for a first turn, or for a client that went away.
        """
        if self.counts is None or not self.replies:
            return self.restores
        if self.counts.host is None:
            return None
        largest = max((reply.prompt_tokens or 0 for reply in self.wakes()), default=0)
        if not largest:
            return 0
        others = sum(second.reply is None or second.turn == 0 for second in self.seconds)
        tokens = self.counts.host - self._first_tokens() - largest * others
        return max(0, min(len(self.wakes()), int(tokens // largest)))

    def _first_tokens(self) -> int:
        """Return the tokens of first turns that others may have left: what is shared, and all in a later round."""
        return sum(script.shared_tokens + (self.rounds - 1) * len(script.prompt) for script in self.scripts)

    def restore_times_s(self) -> list[float]:
        """Return the seconds of all restores that took place after a pause."""
        return [reply.restore_s for reply in self.wakes() if reply.restore_s]


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return a percentile, interpolated linearly; None of nothing."""
    return float(np.percentile(values, percent)) if len(values) else None


@dataclass
class _Crowd:
    client: AgentClient
    model: Model
    new_tokens: int
    think_s: tuple[float, float]
    errors: list[str] = field(default_factory=list)
    disturbed_share: float = 0.0
    seconds: list[Second] = field(default_factory=list)
    twins: list[list[Reply]] = field(default_factory=list)
    scripted: list[list[Sequence[int]]] = field(default_factory=list)
    """Each twin's prompts, which its agent says as well where a server may round otherwise in a batch."""

    async def agent(self, number: int, script: AgentScript, arrival_s: float, chance: random.Random) -> list[Reply]:
        """Arrive, take all turns, and stay."""
        await asyncio.sleep(arrival_s)
        replies: list[Reply] = []
        prompt: Sequence[int] = script.prompt
        if script.shared_tokens and isinstance(self.client, PoolClient):
            self.client.share(session_of(number), _GROUP)
        try:
            for follow_up in (*script.follow_ups, ()):
                if replies:
                    await self.client.sleep(session_of(number))
                    await asyncio.sleep(chance.uniform(*self.think_s))
                    await self.client.wake(session_of(number))
                if self.scripted:
                    prompt = self.scripted[number % len(self.scripted)][len(replies)]
                tokens = script.answer_tokens(len(replies), self.new_tokens)
                # What rounding does is seen in first turns that nobody else could have had a part in.
                is_apart = not replies and not script.shared_tokens
                second = None if is_apart else self._disturb(number, len(replies), prompt, tokens, chance)
                replies.append(await self.client.turn(session_of(number), prompt, tokens))
                if second is not None:
                    self.seconds.append(await second)
                prompt = extend(self.model, prompt, replies[-1], follow_up)
        except InstrumentError as error:
            self.errors.append(f"agent {number}: {error}")
        return replies

    def _disturb(
        self, number: int, turn: int, prompt: Sequence[int], tokens: int, chance: random.Random
    ) -> asyncio.Task[Second] | None:
        """Now and then have a second client ask the same turn, and stay or go away in the middle of its answer.

        It goes away some time within what the turn takes alone: under load it is still waiting then, or is being told.
        """
        if chance.random() >= self.disturbed_share:
            return None
        alone = self.twins[number % len(self.twins)][turn]
        patience_s = chance.uniform(0.0, alone.end_s - alone.sent_s) if chance.random() < 0.5 else None
        return asyncio.create_task(self._second(number, turn, prompt, tokens, patience_s))

    async def _second(
        self, number: int, turn: int, prompt: Sequence[int], tokens: int, patience_s: float | None
    ) -> Second:
        reply, refused = None, ""
        try:
            reply = await asyncio.wait_for(self.client.turn(session_of(number), prompt, tokens), patience_s)
        except TimeoutError:
            pass
        except InstrumentError as error:
            refused = str(error)
        return Second(agent=number, turn=turn, reply=reply, refused=refused)

    async def twin(self, number: int, script: AgentScript) -> list[Reply]:
        """Take the same turns without a pause, and leave."""
        replies: list[Reply] = []
        prompt: Sequence[int] = script.prompt
        prompts = []
        for follow_up in (*script.follow_ups, ()):
            prompts.append(prompt)
            tokens = script.answer_tokens(len(replies), self.new_tokens)
            replies.append(await self.client.turn(f"twin-{number}", prompt, tokens))
            prompt = extend(self.model, prompt, replies[-1], follow_up)
        await self.client.close(f"twin-{number}")
        self.twins.append(replies)
        if self.client.is_pool or not self.client.has_sessions:
            self.scripted.append(prompts)
        return replies

    async def round(
        self, number: int, scripts: Sequence[AgentScript], arrivals: Sequence[float], seed: int
    ) -> list[list[Reply]]:
        """Have all agents come once more, in sessions of their own."""
        first = number * len(scripts)
        return await asyncio.gather(
            *(
                self.agent(first + place, script, float(arrival), random.Random(f"{seed}-{first + place}"))
                for place, (script, arrival) in enumerate(zip(scripts, arrivals, strict=True))
            )
        )


async def run_crowd(
    client: AgentClient,
    model: Model,
    scripts: Sequence[AgentScript],
    *,
    new_tokens: int,
    arrival_rate: float,
    think_s: tuple[float, float],
    seed: int,
    burst: int = 1,
    disturbed_share: float = 0.0,
    restores_wanted: int = 0,
    most_s: float = 0.0,
) -> CrowdRun:
    """Let the twins take their turns one by one; then all agents come, take theirs, and leave together.

    The twins come first, so that what a server sets up for turns of this length is there before its memory is watched.

    Args:
        arrival_rate: agents per second.
        think_s: shortest and longest pause between two turns, seconds.
        burst: how many arrive at the same moment.
        disturbed_share: of the turns, that a second client asks as well.
        restores_wanted: they come again, in sessions of their own, until so many sessions were restored,
        most_s: or so many seconds have passed.

    Raises:
        InstrumentError: a twin failed. An agent that fails is counted instead.
    """
    generator = np.random.default_rng(seed)
    if isinstance(client, PoolClient):
        block = read_block_tokens(client.adapter, await client.series()) or 1
        scripts = [script if number % 2 else end_on_block(script, new_tokens, block)
                   for number, script in enumerate(scripts)]  # fmt: skip
    crowd = _Crowd(client, model, new_tokens, think_s, disturbed_share=disturbed_share)
    twins = [await crowd.twin(number, script) for number, script in enumerate(scripts)]
    if isinstance(client, PoolClient):
        await client.empty_all()  # whatever it makes of salts, no agent is served what its twin has left
    await asyncio.sleep(SETTLE_S)
    samples: list[StateSample] = []
    before = await _counts(client)
    watching = asyncio.create_task(_watch(client, samples))
    started = time.monotonic()
    replies: list[list[Reply]] = []
    moved: list[tuple[int | None, int | None]] = []
    while True:
        first = len(replies)
        gaps = generator.exponential(burst / arrival_rate, len(scripts))
        replies += await crowd.round(len(moved), scripts, _arrivals(gaps, burst), seed)
        ended = time.monotonic()
        now = await _counts(client)
        counts = now.since(before) if now and before else None
        moved.append(await _leave(client, crowd, range(first, len(replies))))
        run = _gather(crowd, scripts, twins, replies, samples, moved, counts=counts, started_s=started, ended_s=ended)
        if crowd.errors or (run.least_restores() or 0) >= restores_wanted or ended - started > most_s:
            break
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return run


def _gather(
    crowd: _Crowd,
    scripts: Sequence[AgentScript],
    twins: Sequence[Sequence[Reply]],
    replies: Sequence[Sequence[Reply]],
    samples: Sequence[StateSample],
    moved: Sequence[tuple[int | None, int | None]],
    *,
    counts: Counts | None,
    started_s: float,
    ended_s: float,
) -> CrowdRun:
    """Return what happened so far; `moved` are the swaps and restores of each round."""
    return CrowdRun(
        scripts=tuple(scripts),
        replies=tuple(map(tuple, replies)),
        twins=tuple(map(tuple, twins)),
        errors=tuple(crowd.errors),
        samples=tuple(samples),
        started_s=started_s,
        ended_s=ended_s,
        swaps=_total([swaps for swaps, _ in moved]),
        restores=_total([restores for _, restores in moved]),
        rounds=len(moved),
        seconds=tuple(crowd.seconds),
        counts=counts,
    )


def _arrivals(gaps: Iterable[float], burst: int) -> list[float]:
    """Return when each agent arrives: so many at the same moment, then a gap."""
    return list(accumulate(0.0 if place % burst else float(gap) for place, gap in enumerate(gaps)))


async def _counts(client: AgentClient) -> Counts | None:
    """Return what a server with a pool has counted so far; None of other kinds, and if it cannot be read."""
    return await client.counts() if isinstance(client, PoolClient) else None


def _total(parts: Sequence[int | None]) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


async def _watch(client: AgentClient, samples: list[StateSample]) -> None:
    while True:
        asked = time.monotonic()
        try:
            states = await client.states()
        except InstrumentError:  # one look that was not answered; the next may be
            states = {}
        if states is None:
            return
        if states:
            samples.append(StateSample(asked_s=asked, answered_s=time.monotonic(), states=states))
        await asyncio.sleep(_POLL_S)


async def _leave(client: AgentClient, crowd: _Crowd, numbers: range) -> tuple[int | None, int | None]:
    """Close all sessions and return the swaps and restores that the server counted for them."""
    swaps: list[int] = []
    restores: list[int] = []
    for number in numbers:
        record = await client.record(session_of(number))
        if record is not None and record.swaps is not None and record.restores is not None:
            swaps.append(record.swaps)
            restores.append(record.restores)
        try:
            await client.close(session_of(number))
        except InstrumentError as error:
            crowd.errors.append(f"agent {number} could not be closed: {error}")
    return (sum(swaps), sum(restores)) if swaps else (None, None)
