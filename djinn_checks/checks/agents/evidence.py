"""What the agents check knows when its runs are over: the sleeper, the crowd, the memory, the link and the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from djinn_checks.checks.agents.crowd import CrowdRun
from djinn_checks.checks.agents.link import MOST_AT_REST_BYTES_PER_S, Carried, LinkEvidence
from djinn_checks.checks.agents.memory import SLEPT_THROUGH, Delay, SessionMemory, why_unresolved
from djinn_checks.checks.agents.pool.run import PoolRun
from djinn_checks.checks.agents.reference import Reference
from djinn_checks.checks.agents.sleeper import Sleep, SleeperRun
from djinn_checks.checks.agents.token_pace import TokenPace
from djinn_checks.instruments.burst import BurstTime
from djinn_checks.instruments.server_memory import MemorySeries
from djinn_checks.params import AgentsParams
from djinn_checks.units import format_bytes

HOLE = "was not counted all the time, as readings are missing: is the machine busy?"
"""Why what the link carried is not known."""


@dataclass(frozen=True, kw_only=True)
class AgentsEvidence:
    """Everything that the criteria are judged by."""

    params: AgentsParams
    device: torch.device
    kv_dtype: torch.dtype
    sleeper: SleeperRun
    reference: Reference
    crowd: CrowdRun | None
    memory: MemorySeries | None
    memory_reason: str
    """Why there is no memory series."""
    link: LinkEvidence | None
    """None without a GPU, and for a server on another machine."""
    token_pace: TokenPace | None
    """None without a GPU, and for a server on another machine."""
    decode: Callable[[Sequence[int]], str | None]
    """Token ids to text, by the model's tokenizer; None without one."""
    pool: PoolRun | None = None
    """What a server with a pool counted in the sleeper's turns; None for the other kinds."""
    is_alive: bool | None
    """Whether the server was still there at the end; None if it was not this check's to look after."""

    @property
    def why_no_link(self) -> str:
        """Why no link is watched."""
        if self.device.type == "cpu":
            return "no GPU: the KV moves between two pools of host memory"
        return f"the server is not on this machine, and neither is its link: {self.memory_reason}"

    @property
    def why_no_token_pace(self) -> str:
        """Why the server's decode was not measured beside `generate()`."""
        if self.device.type == "cpu":
            return "no GPU: what a processor needs for a token is its arithmetic, whoever asks for it"
        return f"the server is not on this machine, and generate() would be on another GPU: {self.memory_reason}"

    def kv_bytes(self, tokens: int) -> int:
        """Return the KV bytes of a session of so many tokens, whose last one has not been fed back."""
        return int((tokens - 1) * self.token_bytes)

    @property
    def token_bytes(self) -> float:
        """KV bytes of a token: the model's shape in the data type that was given.

        A server may keep a session in a form of its own choice and say its size, as llama-server does with q8_0; that
        counts if it is a form of the same numbers, of four bits or more each. vLLM says the type of its cache.
        """
        shorter = self.pool.kv_itemsize if self.pool else None
        plain = float(self.reference.kv_elements_per_token * (shorter or self.kv_dtype.itemsize))
        said = [
            sleep.asleep.kept_bytes / (sleep.tokens - 1)
            for sleep in self.sleeper.sleeps
            if sleep.asleep and sleep.asleep.kept_bytes
        ]
        least = self.reference.kv_elements_per_token / 2
        return min(said) if said and least <= min(said) < plain else plain

    @property
    def session_memory(self) -> SessionMemory | None:
        """The device's memory around the sleeper's session; None if it was not read."""
        if self.memory is None:
            return None
        return SessionMemory(series=self.memory, run=self.sleeper, idle_s=self.params.idle_s)

    @property
    def why_unresolved(self) -> str:
        """Why the KV of some sleep is too small to be seen in the memory; nothing if it is not."""
        smallest = min(self.kv_bytes(sleep.tokens) for sleep in self.sleeper.sleeps)
        return why_unresolved(smallest, self.device.type)

    def time_to_leave(self) -> Delay | None:
        """Return the longest time from the start of a sleep until the device's memory was what it was at its end.

        Infinite if by the end less than the KV's bytes were gone; None if the memory was not read, or cannot show it.
        """
        memory, share, sleeps = self.session_memory, self.params.memory_share, self.sleeper.sleeps
        if memory is None or self.why_unresolved:
            return None
        found = [memory.time_to_leave(sleep, self.kv_bytes(sleep.tokens), share) for sleep in sleeps]
        known = [delay for delay in found if delay is not None]
        if not known or len(known) < len(found):
            return None
        return Delay(most_s=max(delay.most_s for delay in known), least_s=max(delay.least_s for delay in known))

    def wake_delay(self) -> Delay | None:
        """Return how much later the first token comes after a sleep than in the twins' turns, median over sleeps."""
        run = self.sleeper
        twins = zip(run.hot[1:], run.again[1:], strict=True)
        awake = [(hot.wake_s + again.wake_s) / 2 for hot, again in twins]
        delays = [sleep.wake_s - alone for sleep, alone in zip(run.sleeps, awake, strict=False)]
        stalls = [self.stalled_s(sleep) for sleep in run.sleeps]
        if not delays:
            return None
        least = median(delay - stalled for delay, stalled in zip(delays, stalls, strict=False))
        return Delay(most_s=median(delays), least_s=least - self.wake_noise_s())

    def stalled_s(self, sleep: Sleep) -> float:
        """Return for how long the machine kept the server from answering, as nobody ran, or others did; and for how
        long the server put the request off."""
        if self.memory is None:
            return sleep.reply.refused_s
        span = sleep.woken_s, sleep.reply.token_at_s[0]
        return sleep.reply.refused_s + self.memory.stalled_s(*span) + self.memory.kept_waiting_s(*span)

    def wake_noise_s(self) -> float:
        """Return the largest difference of the twins' times to the first token."""
        pairs = zip(self.sleeper.hot[1:], self.sleeper.again[1:], strict=True)
        return max((abs(hot.wake_s - again.wake_s) for hot, again in pairs), default=0.0)

    def carried(self, direction: str) -> list[Carried] | None:
        """Return what left over the link in each sleep ("out"), or came back before the first token after it ("in").

        A link is never quite still: its counters' readings alone move bytes, in a sleep of 30 s half as many as a
        session has. What is counted in the last third of the sleep is taken off at its rate. None if the link was not
        counted. Where readings are missing it is the least that was carried, which may show enough of it.
        """
        link, sleeps = self.link, self.sleeper.sleeps
        if link is None or self._is_slept_through:
            return None
        found = [_carried(link, direction, sleep, *self._time_to_move(direction, sleep)) for sleep in sleeps]
        known = [carried for carried in found if carried is not None]
        return known if len(known) == len(found) else None

    def share_carried(self, direction: str, sizes: Sequence[float]) -> float | None:
        """Return the least share of the sleeps' `sizes`, in bytes, that the link carried.

        None if it is not known: where readings are missing, and those that are there do not show enough.
        """
        carried, enough = self.carried(direction), self.params.memory_share
        if not carried or len(sizes) < len(carried) or not all(sizes):
            return None
        shares = [part.share_of(size, enough) for part, size in zip(carried, sizes, strict=True)]
        known = [share for share in shares if share is not None]
        is_decided = len(known) == len(shares) or min(known, default=enough) < enough
        return min(known) if is_decided else None

    def move_times(self, direction: str) -> tuple[list[BurstTime], str]:
        """Return how long each swap-out ("out") or restore ("in") took on the link, by its counters.

        Or nothing, and why not all of them are known.
        """
        carried = self.carried(direction)
        if self.link is None or carried is None:
            return [], f"nothing but the server times it: {self.why_not_counted}"
        times = []
        for number, (sleep, part) in enumerate(zip(self.sleeper.sleeps, carried, strict=True), 1):
            kv_bytes, at_rest = self.kv_bytes(sleep.tokens), _at_rest(self.link, direction, sleep)
            if at_rest is None or at_rest > MOST_AT_REST_BYTES_PER_S:
                said = "was not counted" if at_rest is None else f"carried {format_bytes(at_rest)}/s"
                return [], f"in sleep {number}, when nothing should move any more, the link {said}: who else uses it?"
            if not self.link.is_only(part.nbytes, kv_bytes):
                carried_too = format_bytes(part.nbytes)
                return [], f"in sleep {number} the link carried {carried_too}: what was there beside the KV?"
            found = self.link.time_move(direction, kv_bytes, *self._time_to_move(direction, sleep))
            if found is None:
                why = "did not carry the session's KV, so there is no move to be timed" if part.is_all else HOLE
                return [], f"in sleep {number} the link {why}"
            times.append(found)
        return times, ""

    def _time_to_move(self, direction: str, sleep: Sleep) -> tuple[float, float]:
        """Return from when to when a session's KV has to leave the device, or to be back."""
        if direction == "in":
            return sleep.woken_s, sleep.reply.token_at_s[0]
        memory = self.session_memory
        return min(sleep.told_s, memory.leaves_s(sleep.last) if memory else sleep.told_s), sleep.still_s

    @property
    def why_not_counted(self) -> str:
        """Why the bytes that went over the link in the sleeps are not known."""
        if self.link is None:
            return self.why_no_link
        if self.link.series is None:
            return f"the link is not counted here: {self.link.reason}"
        return SLEPT_THROUGH if self._is_slept_through else f"the link {HOLE}"

    @property
    def _is_slept_through(self) -> bool:
        """Whether the machine stood still for so much of a sleep that what was counted in it tells nothing."""
        memory = self.session_memory
        return memory is not None and any(map(memory.slept_through, self.sleeper.sleeps))

    def swap_rates(self, direction: str) -> list[float] | None:
        """Return bytes per second of each swap-out ("out") or restore ("in"), by the server's own clock."""
        rates = []
        for sleep in self.sleeper.sleeps:
            record = sleep.asleep if direction == "out" else sleep.after
            seconds = record and (record.swap_s if direction == "out" else record.restore_s)
            if not seconds:
                return None
            rates.append(self.kv_bytes(sleep.tokens) / seconds)
        return rates

    def unloaded_restore_s(self) -> float | None:
        """Return the median time of the sleeper's restores, by the server's clock; None if it does not say.

        The memory for it included, as in what the server says of a turn that had to wait for its KV.
        """
        records = [sleep.after for sleep in self.sleeper.sleeps if sleep.after]
        seconds = [record.restore_s + (record.allocate_s or 0.0) for record in records if record.restore_s]
        return median(seconds) if seconds else None


def _carried(link: LinkEvidence, direction: str, sleep: Sleep, start_s: float, end_s: float) -> Carried | None:
    moved, at_rest = link.carried(direction, start_s, end_s), _at_rest(link, direction, sleep)
    rest = link.carried(direction, sleep.still_s, sleep.woken_s)
    if moved is None or at_rest is None or rest is None:
        return None
    return Carried(moved.nbytes - at_rest * (end_s - start_s), is_all=moved.is_all and rest.is_all)


def _at_rest(link: LinkEvidence, direction: str, sleep: Sleep) -> float | None:
    """Return the payload bytes per second that are counted of a link over which nothing moves."""
    return link.rate(direction, sleep.still_s, sleep.woken_s)
