"""One agent that sleeps, and its twins that do not.

    slept   takes its turns with a sleep before each but the first
    hot     takes the same turns one right after the other, and never sleeps
    again   as `hot`, once more: what differs between the two is the server's own noise
    cold    asks for each later turn in a new session, so that everything is computed anew

Before them a session with another text sleeps and wakes, so that what a server sets up once is there, and so
that one that mixes sessions up has something to mix up.

The twins have the same prompts, and come after the sleeper: what it is asked nobody was asked before, so there is no
answer to be said again. If a server drops a sleeping agent's KV and computes it again, the words may
well be the same, but a prefill rounds otherwise than a decode: the log-probabilities are then `cold`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from djinn_checks.checks.agents.client import AgentClient
from djinn_checks.checks.agents.refusal import RefusedError
from djinn_checks.checks.agents.reply import Reply, SessionRecord
from djinn_checks.checks.agents.scripts import AgentScript
from djinn_checks.errors import AgentLostError, InstrumentError
from djinn_checks.models.open import Model

SETTLE_S = 0.3
"""Pause after each turn in which memory is read, short of any server's idle threshold."""

_WARM_UP_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Sleep:
    """One sleep and the turn after it."""

    told_s: float
    """CLOCK_MONOTONIC when the server was told of the sleep, or would have been, `SETTLE_S` after the last turn."""
    woken_s: float
    """When the next request was sent, or the server told to get ready for it."""
    tokens: int
    """Tokens of the session when it went idle: prompt and answer so far."""
    asleep: SessionRecord | None
    """What the server said at the end of the sleep."""
    after: SessionRecord | None
    last: Reply
    """The turn before it."""
    reply: Reply
    """The turn after it."""

    @property
    def back(self) -> SessionRecord | None:
        """What the server said after the turn; None if the session had begun to leave again by then."""
        left_again = self.after and self.asleep and self.after.swaps != self.asleep.swaps
        return None if left_again else self.after

    @property
    def wake_s(self) -> float:
        """Seconds from the moment that the agent was wanted again to its first token."""
        return self.reply.token_at_s[0] - min(self.woken_s, self.reply.asked_s)

    @property
    def still_s(self) -> float:
        """When the last third of the sleep begins, by which time the KV is long gone."""
        return self.woken_s - (self.woken_s - self.told_s) / 3


@dataclass(frozen=True, kw_only=True)
class SleeperRun:
    """All turns of the sleeper and its twins."""

    first: Reply
    sleeps: tuple[Sleep, ...]
    hot: tuple[Reply, ...]
    again: tuple[Reply, ...]
    cold: tuple[Reply, ...]
    """One for each turn after the first."""
    hot_record: SessionRecord | None
    opened: SessionRecord | None
    """What the server said of the sleeper's session before its first turn: nothing, if it had none of that name."""
    histories: tuple[tuple[int, ...], ...]
    """The prompts of the sleeper's turns."""
    last_tokens: int
    """Tokens of the session when it was closed."""
    closed_s: float
    """CLOCK_MONOTONIC when its session was closed, `SETTLE_S` after its last turn."""
    gone_s: float
    """CLOCK_MONOTONIC `SETTLE_S` after the server had closed its session."""
    part: tuple[Reply, ...] = ()
    """As `cold`, but with the prompts kept and the answers between them computed anew, as on a server with a pool that
    keeps prompts alone. Empty for other kinds."""

    @property
    def slept(self) -> tuple[Reply, ...]:
        """The sleeper's turns."""
        return (self.first, *(sleep.reply for sleep in self.sleeps))


async def run_sleeper(
    client: AgentClient, model: Model, script: AgentScript, other: AgentScript, *, new_tokens: int, sleep_s: float
) -> SleeperRun:
    """Run the sleeper, then its twins, one after the other.

    Args:
        other: what another session says that sleeps and wakes before them.

    Raises:
        AgentLostError: the sleeper could not go on.
        InstrumentError: the server refused or failed another request.
    """
    await _warm_up(client, model, other, new_tokens, min(sleep_s, _WARM_UP_S))
    opened = await _open(client)
    first, sleeps, slept_histories = await _sleep_and_wake(client, model, script, new_tokens, sleep_s)
    closed = time.monotonic()
    await client.close("slept")
    await asyncio.sleep(SETTLE_S)
    gone = time.monotonic()
    hot, hot_record = await _take_turns(client, model, script, "hot", new_tokens)
    again, _ = await _take_turns(client, model, script, "again", new_tokens)
    cold = []
    for number, prompt in enumerate(histories_of(model, script, hot)[1:]):
        cold.append(await client.turn(f"cold-{number}", prompt, new_tokens))
        await client.close(f"cold-{number}")
    return SleeperRun(
        first=first,
        sleeps=tuple(sleeps),
        hot=tuple(hot),
        again=tuple(again),
        cold=tuple(cold),
        hot_record=hot_record,
        opened=opened,
        histories=tuple(slept_histories),
        last_tokens=len(extend(model, slept_histories[-1], sleeps[-1].reply if sleeps else first, ())),
        closed_s=closed,
        gone_s=gone,
    )


async def _warm_up(client: AgentClient, model: Model, script: AgentScript, new_tokens: int, sleep_s: float) -> None:
    """Have a session sleep and wake before anything is measured: what a server sets up once is then there."""
    reply = await client.turn("warm-up", script.prompt, new_tokens)
    prompt = extend(model, script.prompt, reply, script.follow_ups[0])
    try:
        await client.sleep("warm-up")
        await asyncio.sleep(sleep_s)
        await client.wake("warm-up")
        await client.turn("warm-up", prompt, new_tokens)
    except InstrumentError as error:
        await _see_that_it_was_lost(client, prompt, new_tokens, error)
        raise AgentLostError(f"lost in the first sleep of any session or after it: {error}") from error
    await client.close("warm-up")


async def _see_that_it_was_lost(
    client: AgentClient, prompt: Sequence[int], new_tokens: int, error: InstrumentError
) -> None:
    """Ask the same of a session that never slept: what is refused there, too, was lost in no sleep.

    Raises:
        RefusedError: it is.
    """
    if not isinstance(error, RefusedError):
        return
    try:
        await client.turn("awake", prompt, new_tokens)
    except RefusedError:
        raise
    except InstrumentError:  # a server that answers nobody any more lost the agent, too
        return


async def _take_turns(
    client: AgentClient, model: Model, script: AgentScript, name: str, new_tokens: int
) -> tuple[list[Reply], SessionRecord | None]:
    replies: list[Reply] = []
    prompt = script.prompt
    for follow_up in (*script.follow_ups, ()):
        replies.append(await client.turn(name, prompt, new_tokens))
        prompt = extend(model, prompt, replies[-1], follow_up)
    record = await client.record(name)
    await client.close(name)
    return replies, record


async def _open(client: AgentClient) -> SessionRecord | None:
    """Close what an interrupted run may have left of the session; return what the server says of it then."""
    if await client.record("slept") is None:
        return None
    await client.close("slept")
    return await client.record("slept")


async def _sleep_and_wake(
    client: AgentClient, model: Model, script: AgentScript, new_tokens: int, sleep_s: float
) -> tuple[Reply, list[Sleep], list[tuple[int, ...]]]:
    await asyncio.sleep(SETTLE_S)  # the memory of the session before is given back
    first = reply = await client.turn("slept", script.prompt, new_tokens)
    await asyncio.sleep(SETTLE_S)
    histories = [script.prompt]
    sleeps: list[Sleep] = []
    for follow_up in script.follow_ups:
        tokens = len(extend(model, histories[-1], reply, ()))
        histories.append(extend(model, histories[-1], reply, follow_up))
        last, told, put_off_s = reply, time.monotonic(), client.put_off_s
        try:
            await client.sleep("slept")
            told += client.put_off_s - put_off_s
            await asyncio.sleep(sleep_s)
            asleep = await client.record("slept")
            woken = time.monotonic()
            await client.wake("slept")
            reply = await client.turn("slept", histories[-1], new_tokens)
            after = await client.record("slept")
        except InstrumentError as error:
            await _see_that_it_was_lost(client, histories[-1], new_tokens, error)
            raise AgentLostError(f"lost in sleep {len(sleeps) + 1} or after it: {error}") from error
        await asyncio.sleep(SETTLE_S)
        sleeps.append(
            Sleep(
                told_s=told,
                woken_s=woken,
                tokens=tokens,
                asleep=asleep,
                after=after,
                last=last,
                reply=reply,
            )
        )
    return first, sleeps, histories


def extend(model: Model, prompt: Sequence[int], reply: Reply, follow_up: Sequence[int]) -> tuple[int, ...]:
    """Return the next turn's prompt: all so far, the answer and what follows it."""
    return (*prompt, *answer_ids(model, reply), *follow_up)


def answer_ids(model: Model, reply: Reply) -> tuple[int, ...]:
    """Return an answer's token ids, from its text if the server gave none.

    Raises:
        InstrumentError: there is neither, so nobody knows what was said.
    """
    if not reply.ids and not reply.text:
        raise InstrumentError("the server gave an answer with neither token ids nor text: nothing can follow it")
    return reply.ids or tuple(model.encode(reply.text, 10**6))


def histories_of(model: Model, script: AgentScript, replies: Sequence[Reply]) -> list[tuple[int, ...]]:
    histories = [script.prompt]
    for reply, follow_up in zip(replies, script.follow_ups, strict=False):
        histories.append(extend(model, histories[-1], reply, follow_up))
    return histories
