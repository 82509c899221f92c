"""One agent on a server with a pool, and its twins. Nobody tells it to sleep: others push it off the device.

    hot, again   take their turns one right after the other
    cold         asks for each later turn in a new session, so that everything is computed anew
    part         asks for each later turn in a new session that had its prompts, so that the answers between them are
                 computed anew, and nothing else: as where a server leaves out answers
    slept        has others' prompts before each turn but the first, as many as the pool holds and a tenth more; before
                 every second one the server's own route empties the device's cache and leaves the host's, if it has it

Each has a salt of its own, so that no session is served from another's blocks, though all say the same. That this is so
is seen in the sources of their tokens, and never taken for granted: where a new session is served all the same, both
caches are emptied, if the server has a route for that, and it begins once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from djinn_checks.checks.agents.answer_distance import turn_distance
from djinn_checks.checks.agents.client import AgentClient
from djinn_checks.checks.agents.pool.client import PoolClient
from djinn_checks.checks.agents.pool.counts import (
    find_missing,
    read_block_tokens,
    read_counts,
    read_engines,
    read_kv_itemsize,
    read_pool_tokens,
    why_untold,
)
from djinn_checks.checks.agents.pool.run import BorderTrial, PoolRun, PoolSleep, served_beyond, why_unaccounted
from djinn_checks.checks.agents.reply import Reply
from djinn_checks.checks.agents.scripts import AgentScript, end_on_block, write_script
from djinn_checks.checks.agents.sleeper import SETTLE_S, Sleep, SleeperRun, answer_ids, extend, histories_of
from djinn_checks.errors import AgentLostError, InstrumentError
from djinn_checks.models.open import Model

_MOST_PRESSURE_TOKENS = 200_000
"""Of others' prompts, if nobody says how many; a pool that holds more is emptied by the server's route alone."""
_MORE = 1.1
_FIRST_OTHER = 1_000_000
"""Number of the first of the others: far beyond any agent's."""
_LONGEST_ANSWER = 160
_FIRST_ON_BORDER, _BORDERS = 500_000, 3
"""Number of the first whose answer ends where a block does, and how many of them are tried."""


@dataclass
class _Others:
    """Those who push a session off the device."""

    client: PoolClient
    model: Model
    tokens: int
    """Of all their prompts together; 0: there are none."""
    each: int
    """Tokens of one prompt: whole blocks where it has any, as what is less than one makes no room."""
    seed: int
    asked: int = 0
    refused: str = ""
    """What the server answered when it last refused one of them."""

    async def press(self) -> int:
        """Ask as many prompts as the pool holds, none of which was there before. Return their tokens; 0 if one was
        refused, as it is not known then how many of them had their place."""
        try:
            return await self._ask_all()
        except InstrumentError as error:
            self.refused = str(error)
            return 0

    async def _ask_all(self) -> int:
        pressed = 0
        while pressed < self.tokens:
            number = _FIRST_OTHER + self.asked
            self.asked += 1
            script = write_script(self.model, number=number, tokens=self.each, turns=1, seed=self.seed)
            await self.client.turn(f"other-{number}", script.prompt, 1, logprobs=False)
            await self.client.close(f"other-{number}")
            pressed += len(script.prompt)
        return pressed


@dataclass
class _Run:
    client: PoolClient
    model: Model
    script: AgentScript
    others: _Others
    new_tokens: int
    sleep_s: float

    async def begin(self, session: str, prompt: tuple[int, ...], tokens: int) -> Reply:
        """Take a new session's first turn, all of which is to be computed."""
        reply, _ = await self.client.counted_turn(session, prompt, tokens)
        if reply.sources and (reply.sources.device or reply.sources.host) and await self.client.empty_all():
            await self.client.close(session)
            reply, _ = await self.client.counted_turn(session, prompt, tokens)
        return reply

    async def take_turns(self, session: str) -> list[Reply]:
        replies: list[Reply] = []
        prompt = self.script.prompt
        for follow_up in (*self.script.follow_ups, ()):
            if replies:
                reply, _ = await self.client.counted_turn(session, prompt, self.new_tokens)
            else:
                reply = await self.begin(session, prompt, self.new_tokens)
            replies.append(reply)
            prompt = extend(self.model, prompt, reply, follow_up)
        await self.client.close(session)
        return replies

    async def compute_anew(self, number: int, prompt: tuple[int, ...]) -> Reply:
        reply = await self.begin(f"cold-{number}", prompt, self.new_tokens)
        await self.client.close(f"cold-{number}")
        return reply

    async def compute_answers_anew(self, prompts: Sequence[tuple[int, ...]]) -> Reply:
        """Take the last of some turns after the others, each of which says one token, and that is not fed back."""
        await self.begin("part", prompts[0], 1)
        for prompt in prompts[1:-1]:
            await self.client.counted_turn("part", prompt, 1)
        reply, _ = await self.client.counted_turn("part", prompts[-1], self.new_tokens)
        await self.client.close("part")
        return reply

    async def compare_kept_with_anew(self, session: str, prompt: tuple[int, ...], block_tokens: int) -> float | None:
        """Return how far, in nats, a second turn with KV from a cache is from one that is computed anew; None if less
        came from there than the whole blocks that there were."""
        first = await self.begin(session, prompt, self.new_tokens)
        tokens = len(prompt) + len(answer_ids(self.model, first))
        later = extend(self.model, prompt, first, self.script.follow_ups[0])
        await asyncio.sleep(SETTLE_S)
        await self.push_out(0)
        kept, counts = await self.client.counted_turn(session, later, self.new_tokens)
        await self.client.close(session)
        anew = await self.compute_anew(0, later)
        came = (counts.device or 0) + (counts.host or 0)
        return turn_distance(kept, anew) if came >= tokens // block_tokens * block_tokens else None

    async def try_borders(self, block_tokens: int, seed: int) -> BorderTrial:
        """Compare some sessions whose answer ends where a block does, and as many that end a token before."""
        at_border, inside = [], []
        for number in range(_FIRST_ON_BORDER, _FIRST_ON_BORDER + _BORDERS):
            script = write_script(self.model, number=number, tokens=len(self.script.prompt), turns=1, seed=seed)
            prompt = end_on_block(script, self.new_tokens, block_tokens).prompt
            if (len(prompt) + self.new_tokens) % block_tokens:
                break
            at_border.append(await self.compare_kept_with_anew(f"border-{number}", prompt, block_tokens))
            inside.append(await self.compare_kept_with_anew(f"inside-{number}", prompt[:-1], block_tokens))
        return BorderTrial(at_border=tuple(at_border), inside=tuple(inside))

    async def push_out(self, number: int) -> tuple[str, int]:
        """Have the session leave the device. Return what did it, and how many tokens of others it took."""
        by_route = number % 2 == 1 or not self.others.tokens
        if by_route and await self.client.empty_device():
            return "the server's route", 0
        pressed = await self.others.press()
        return ("others' prompts" if pressed else ""), pressed

    async def sleep(self, number: int, prompt: tuple[int, ...], last: Reply) -> tuple[Sleep, PoolSleep]:
        """Push the session out, wait, and take its turn."""
        tokens = len(prompt) + len(answer_ids(self.model, last))
        prompt = extend(self.model, prompt, last, self.script.follow_ups[number])
        try:
            by, pressed = await self.push_out(number)
            told = time.monotonic()
            await asyncio.sleep(self.sleep_s)
            woken = time.monotonic()
            reply, counts = await self.client.counted_turn("slept", prompt, self.new_tokens)
        except InstrumentError as error:
            raise AgentLostError(f"lost in sleep {number + 1} or after it: {error}") from error
        # The counters are read before the request; that is no part of the wake.
        sleep = Sleep(
            told_s=told,
            woken_s=max(woken, reply.sent_s),
            tokens=tokens,
            asleep=None,
            after=None,
            last=last,
            reply=reply,
        )
        return sleep, PoolSleep(by=by, pressed_tokens=pressed, woken=counts)

    async def sleep_and_wake(self, first: Reply) -> tuple[list[Sleep], list[PoolSleep], list[tuple[int, ...]]]:
        """Take all turns behind the first, with a sleep before each. Return also the prompts of all turns."""
        slept: list[Sleep] = []
        pools: list[PoolSleep] = []
        last, prompts = first, [self.script.prompt]
        for number, follow_up in enumerate(self.script.follow_ups):
            sleep, pushed = await self.sleep(number, prompts[-1], last)
            slept.append(sleep)
            pools.append(pushed)
            prompts.append(extend(self.model, prompts[-1], last, follow_up))
            last = sleep.reply
        return slept, pools, prompts

    async def take_all(self) -> tuple[SleeperRun, list[PoolSleep], float]:
        """Take the twins' turns, then the sleeper's. Return also when others first had the device since its first."""
        hot, again = await self.take_turns("hot"), await self.take_turns("again")
        histories = histories_of(self.model, self.script, hot)
        cold = [await self.compute_anew(number, prompt) for number, prompt in enumerate(histories[1:])]
        part = [await self.compute_answers_anew(histories[:end]) for end in range(2, len(histories) + 1)]
        await asyncio.sleep(SETTLE_S)
        first = await self.begin("slept", self.script.prompt, self.new_tokens)
        await asyncio.sleep(SETTLE_S)
        left = time.monotonic()
        slept, pools, prompts = await self.sleep_and_wake(first)
        closed = time.monotonic()
        await self.client.close("slept")
        run = SleeperRun(
            first=first,
            sleeps=tuple(slept),
            hot=tuple(hot),
            again=tuple(again),
            cold=tuple(cold),
            part=tuple(part),
            hot_record=None,
            opened=None,
            histories=tuple(prompts),
            last_tokens=len(extend(self.model, prompts[-1], slept[-1].reply, ())),
            closed_s=closed,
            gone_s=time.monotonic(),
        )
        return run, pools, left


async def run_pool_sleeper(
    client: AgentClient,
    model: Model,
    script: AgentScript,
    other: AgentScript,
    *,
    new_tokens: int,
    sleep_s: float,
    pressure_tokens: int,
    seed: int,
) -> tuple[SleeperRun, PoolRun]:
    """Run the twins, then the sleeper, one after the other.

    Args:
        other: what another session says that goes before them, so that what a server sets up once is there.
        new_tokens: of each answer; more if a block has more, since only a whole one is kept.
        sleep_s: how long nothing is asked before the session wakes, seconds.
        pressure_tokens: of others' prompts; 0: a tenth more than the server says that its pool holds.

    Raises:
        AgentLostError: the sleeper could not go on.
        InstrumentError: the server refused or failed another request.
    """
    if not isinstance(client, PoolClient):
        raise InstrumentError(f"a server of this kind has no pool: {type(client).__name__}")
    series = await client.series()
    block, pool = read_block_tokens(client.adapter, series), read_pool_tokens(client.adapter, series)
    before, engines = read_counts(client.adapter, series), read_engines(client.adapter, series)
    step, tokens = block or 1, _answer_tokens(new_tokens, block)
    script = end_on_block(script, tokens, step)
    pressure = _pressure(pressure_tokens, pool)
    whole = len(script.prompt) // step * step
    others = _Others(client, model, pressure, min(whole or len(script.prompt), pressure), seed)
    run = _Run(client, model, script, others, tokens, sleep_s)
    await _warm_up(run, other)
    sleeper, pools, left_s = await run.take_all()
    border = await run.try_borders(step, seed) if step > 1 and served_beyond(sleeper) > 0 else None
    with contextlib.suppress(InstrumentError):  # else it is told what was there before
        series = await client.series()
    counted = read_counts(client.adapter, series).since(before)
    replies = (*sleeper.hot, *sleeper.again, *sleeper.cold, *sleeper.part, *sleeper.slept)
    return sleeper, PoolRun(
        kind=client.adapter.name,
        version=await client.version(),
        missing=find_missing(client.adapter, series),
        block_tokens=block,
        pool_tokens=pool,
        sleeps=tuple(pools),
        counted=counted,
        left_s=left_s,
        border=border,
        kv_itemsize=read_kv_itemsize(client.adapter, series),
        engines=engines,
        unpushed="; ".join(filter(None, (client.not_emptied, others.refused))),
        unaccounted=why_untold(client.adapter, counted) or why_unaccounted(replies),
    )


def _answer_tokens(wanted: int, block: int | None) -> int:
    """Return the tokens of each answer: more than a block has, and not so many that an answer of one token would end
    with a block, too."""
    if block is None:
        return wanted
    tokens = max(wanted, min(block + 2, _LONGEST_ANSWER))
    return tokens + 1 if tokens % block == 1 else tokens


def _pressure(wanted: int, pool_tokens: int | None) -> int:
    """Return of how many tokens others push a session out: as many as are wanted, or a tenth more than a small pool
    holds."""
    fills = math.ceil(_MORE * pool_tokens) if pool_tokens else 0
    return wanted or (fills if fills <= _MOST_PRESSURE_TOKENS else 0)


async def _warm_up(run: _Run, other: AgentScript) -> None:
    """Have a session be pushed out and come back before anything is measured."""
    warm = replace(run, script=other, sleep_s=min(run.sleep_s, 1.0))
    reply = await warm.client.turn("warm-up", other.prompt, run.new_tokens)
    await warm.push_out(0)
    await warm.client.turn("warm-up", extend(run.model, other.prompt, reply, other.follow_ups[0]), run.new_tokens)
    await warm.client.close("warm-up")
