"""What a server with a pool was seen to do in the turns of the sleeper and of its twins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from djinn_checks.checks.agents.pool.counts import Counts
from djinn_checks.checks.agents.reply import Reply
from djinn_checks.checks.agents.sleeper import Sleep, SleeperRun

_NOT_READ = (
    "what the server counted could not be read, or did not add up to a prompt: do its counters lag by seconds, or who "
    "else asks it?"
)


@dataclass(frozen=True, kw_only=True)
class PoolSleep:
    """How a session was pushed off the device, and what its next turn cost."""

    by: str
    """What pushed it: "others' prompts", "the server's route", or nothing."""
    pressed_tokens: int
    """Of others' prompts."""
    woken: Counts
    """What the server counted in the turn after."""


@dataclass(frozen=True, kw_only=True)
class BorderTrial:
    """How far second turns with KV from a cache are from those computed anew, in nats. None without log-probabilities,
    or if less came from a cache than the whole blocks that there were.

    An answer's last token is not fed back, so its KV is missing; that shows only where it is the last of a block.
    """

    at_border: tuple[float | None, ...]
    """First answers ended where a block does."""
    inside: tuple[float | None, ...]
    """They ended a token before."""

    @property
    def is_whole(self) -> bool:
        """Whether there are such turns, and all are known."""
        return bool(self.at_border and self.inside) and None not in (*self.at_border, *self.inside)

    def span(self, *, inside: bool) -> tuple[float, float]:
        """Return the least and the most that turns of a kind are off."""
        known = [nats for nats in (self.inside if inside else self.at_border) if nats is not None]
        return min(known), max(known)


@dataclass(frozen=True, kw_only=True)
class PoolRun:
    """Beside a `SleeperRun`, whose replies say where their tokens came from."""

    kind: str
    """The adapter."""
    version: str | None
    """As the server says it; None if it does not."""
    missing: Mapping[str, str]
    """What the server does not count, and under which names it was looked for."""
    block_tokens: int | None
    pool_tokens: int | None
    """That the device holds, all engines' pools together."""
    sleeps: tuple[PoolSleep, ...]
    counted: Counts
    """From the first request of the run to its last, others' prompts included."""
    left_s: float
    """CLOCK_MONOTONIC when the first pressure on the sleeper began, and nobody else had asked since its first turn."""
    border: BorderTrial | None = None
    """Tried only if more came from a cache than was fed back."""
    kv_itemsize: int | None = None
    """Bytes of a number in the KV, where the server says that it keeps it in a shorter type than the model's."""
    engines: int = 1
    """Each with a pool of its own."""
    unpushed: str = ""
    """What the server answered when it refused to empty a cache, or others' prompts; empty: it did not."""
    unaccounted: str = ""
    """Why the server's account of a turn is not that of its prompt; empty if it is."""

    def why_missing(self, *parts: str) -> str:
        """Return why something is not known that the server counts by some of the parts of `Counts`."""
        lacking = [f"{part} ({self.missing[part]})" for part in parts if part in self.missing]
        if not lacking:
            return self.unaccounted or _NOT_READ
        who = f"{self.kind} {self.version or 'of an unknown version'}"
        return f"{who} does not count {' and '.join(lacking)}"

    def whole_blocks(self, tokens: int) -> int:
        """Return how many of a session's tokens lie in whole blocks; its last token has not been fed back."""
        block = self.block_tokens or 1
        return (tokens - 1) // block * block


def kept_of(sleep: Sleep) -> int:
    """Return how many of a session's tokens have KV when it goes idle."""
    return sleep.tokens - 1


def served_beyond(run: SleeperRun) -> int:
    """Return how many tokens more came from a cache, in a turn after a sleep, than the session had fed back."""
    cached = [(_cached(sleep.reply), kept_of(sleep)) for sleep in run.sleeps]
    return max((served - kept for served, kept in cached if served is not None), default=0)


def served_to_new(run: SleeperRun) -> int | None:
    """Return how many tokens of new sessions came from a cache; None if that is not known. A first turn is computed,
    whoever takes it, and so is a twin that is computed anew."""
    return _total([_cached(reply) for reply in (run.hot[0], run.again[0], run.first, *run.cold)])


def off_device(run: SleeperRun, block_tokens: int) -> int | None:
    """Return how many tokens of twins that never slept were not on the device; None if that is not known.

    Such a twin has there what it had, but for less than a block, and one that kept its prompts has those.
    """
    found: list[int | None] = []
    for replies in (run.hot, run.again):
        for before, reply, history in zip(replies, replies[1:], run.histories, strict=False):
            had = len(history) + max(len(before.ids), 1) - 1
            found.append(_not_on_device(reply, had, block_tokens))
    for history, reply in zip(run.histories, run.part, strict=False):
        found.append(_not_on_device(reply, len(history), block_tokens))
    return _total(found)


def strangers(run: SleeperRun, block_tokens: int) -> int | None:
    """Return how many tokens of the twins' turns came from where they should not; None if that is not known."""
    return _total([served_to_new(run), off_device(run, block_tokens)])


def is_accounted(replies: Sequence[Reply]) -> bool:
    """Return whether the server's account of each turn's prompt tokens is of that prompt, and of nothing besides."""
    return not why_unaccounted(replies)


def why_unaccounted(replies: Sequence[Reply]) -> str:
    """Return why the server's account of a turn is not that of its prompt; empty if it is, of each."""
    for reply in replies:
        total = reply.sources.total if reply.sources else None
        if reply.prompt_tokens is None:
            return "its answers do not say how many tokens their prompts have (usage)"
        if total is None:
            return _NOT_READ
        if total != reply.prompt_tokens:
            return (
                f"an answer says {reply.prompt_tokens:,} prompt tokens, and {total:,} were counted: who else asks it, "
                "or does it add a token of its own to a prompt?"
            )
    return ""


def _total(found: Sequence[int | None]) -> int | None:
    known = [count for count in found if count is not None]
    return sum(known) if len(known) == len(found) else None


def _cached(reply: Reply) -> int | None:
    found = reply.sources
    return None if found is None or found.device is None or found.host is None else found.device + found.host


def _not_on_device(reply: Reply, had: int, block_tokens: int) -> int | None:
    found = reply.sources
    if found is None or found.device is None:
        return None
    lacking = had - found.device
    return lacking if lacking > block_tokens else 0
