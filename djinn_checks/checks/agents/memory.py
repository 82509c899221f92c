"""What the device's memory was before a session came, in its sleeps, and after it was closed.

That memory falls by a session's KV in a sleep is not enough: a server may keep the KV and give back something else,
such as what a forward left in its allocator. So what is there in a sleep is held against the memory without the
session, and what is there after closing against both that and the sleep. From outside, a part of a KV that stays cannot
be told from a cache that grew meanwhile; that leaves it open. As much as the whole KV is a KV that stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from djinn_checks.checks.agents.reply import Reply
from djinn_checks.checks.agents.sleeper import SETTLE_S, Sleep, SleeperRun
from djinn_checks.instruments.server_memory import MemorySeries
from djinn_checks.units import MB, format_bytes

_OWN_ACCORD_BYTES = {"cpu": 2 * MB, "cuda": 8 * MB}
"""What a server's memory may grow by within the turns of one session. On a CPU 0.5 MB were seen of a server that unmaps
what its forwards free; of one whose heap keeps it up to 4.3 MB, and those leave it open. None were seen on an H200,
whose driver gives memory in pieces of 2 MB."""
UNREAD = "the memory was not read in every sleep and before it while the machine ran"
"""Why nothing is known of a sleep."""
SLEPT_THROUGH = "the machine stood still for so much of a sleep that nothing tells what was moved in it: is it busy?"
"""Why what was counted in a sleep says nothing."""
_REST_SHARE = 0.1
"""Of a session's KV: what memory may still move by while its place counts as given back."""


def why_unresolved(kv_bytes: int, device_type: str) -> str:
    """Return why a session's KV is too small to be seen in the memory of its server; nothing if it is not."""
    own = _OWN_ACCORD_BYTES[device_type]
    if kv_bytes >= own:
        return ""
    return (
        f"the session's KV is {format_bytes(kv_bytes)}, and the server's memory may move by {format_bytes(own)} of its "
        "own accord: whether so little left or came back cannot be seen; give a larger prompt_tokens"
    )


@dataclass(frozen=True, kw_only=True)
class Fall:
    """What is to be seen of a session's KV leaving the device's memory."""

    fell_bytes: int
    """By which the memory fell then."""
    beyond_bytes: int
    """By which it is above what it is without the session all the same."""

    def share(self, kv_bytes: int, least: float, device_type: str) -> tuple[float | None, str]:
        """Return the share of the KV that left, or None and why that is open.

        Args:
            least: the share that has to leave.
        """
        unresolved = why_unresolved(kv_bytes, device_type)
        if unresolved:
            return None, unresolved
        fell, beyond = self.fell_bytes / kv_bytes, self.beyond_bytes / kv_bytes
        if fell < least:
            return fell, ""
        if beyond >= least:
            return max(0.0, 1 - beyond), ""
        if self.beyond_bytes <= (1 - least) * kv_bytes + _OWN_ACCORD_BYTES[device_type]:
            return fell, ""
        more = format_bytes(self.beyond_bytes)
        return None, f"it fell by enough, yet {more} more was there than without the session: KV, or a cache?"


@dataclass(frozen=True, kw_only=True)
class Delay:
    """A time that a server took, on a machine that may itself have stood still meanwhile."""

    most_s: float
    """By the clock."""
    least_s: float
    """Without the time in which the machine did not let anybody run, and without noise."""

    def within(self, limit_s: float) -> float | None:
        """Return the time by the clock, or None where the machine decides whether it is over a limit."""
        return None if self.least_s <= limit_s < self.most_s else self.most_s


@dataclass(frozen=True, kw_only=True)
class SessionMemory:
    """The device's memory around the sleeper's session. What was not read is None."""

    series: MemorySeries
    run: SleeperRun
    idle_s: float
    """After which the server may have a session leave by itself."""

    def left(self, sleep: Sleep) -> Fall | None:
        """Return what is to be seen of the KV leaving for a sleep."""
        before, asleep = self._awake(sleep.last), self._asleep(sleep)
        opened, closed = self._opened(), self._closed()
        if before is None or asleep is None or opened is None or closed is None:
            return None
        return Fall(fell_bytes=before - asleep, beyond_bytes=asleep - min(opened, closed))

    def came_back(self, sleep: Sleep) -> int | None:
        """Return the bytes by which the memory rose after a sleep."""
        asleep, after = self._asleep(sleep), self._awake(sleep.reply)
        return None if asleep is None or after is None else after - asleep

    def freed(self) -> Fall | None:
        """Return what is to be seen of the KV leaving when the session was closed."""
        last = self.run.sleeps[-1]
        if self.run.closed_s > self.leaves_s(last.reply):
            return None  # what closing frees is not to be seen of a session that is asleep
        open_still, asleep = self._awake(last.reply), self._asleep(last)
        opened, closed = self._opened(), self._closed()
        if open_still is None or opened is None or asleep is None or closed is None:
            return None
        return Fall(fell_bytes=open_still - closed, beyond_bytes=closed - max(opened, asleep))

    def time_to_leave(self, sleep: Sleep, kv_bytes: int, least: float) -> Delay | None:
        """Return the time from the start of a sleep until the memory was what it was at its end.

        That it falls is not enough: what falls first may be another session's. Infinite if by the end less than that
        share of the KV's bytes was gone.
        """
        fall, asleep = self.left(sleep), self._asleep(sleep)
        if fall is None or asleep is None:
            return None
        if fall.fell_bytes < least * kv_bytes:
            return Delay(most_s=math.inf, least_s=math.inf)
        start_s = min(sleep.told_s, self.leaves_s(sleep.last))
        readings = self.series.readings(start_s, sleep.woken_s)
        taken = [t_s for t_s, used in readings if used > asleep + _REST_SHARE * kv_bytes]
        end = max(taken, default=start_s)
        latest_s = min(sleep.told_s, self._seen_s(sleep.last) + self.idle_s)
        return Delay(most_s=end - start_s, least_s=end - latest_s - self.series.stalled_s(start_s, end))

    def leaves_s(self, reply: Reply) -> float:
        """Return when the idle threshold behind a turn may be reached, and the session leave, told or not.

        On a machine that stalls the pause before a sleep may last that long. And an answer may be complete before it
        is seen: by no more than the longest time in which nobody ran, as whoever runs sees what has come, and the time
        for which the server's threads waited for a processor, so that they could send its end.
        """
        return self._seen_s(reply) - self._unsent_s(reply) + self.idle_s

    def _seen_s(self, reply: Reply) -> float:
        return reply.end_s - self.series.longest_gap_s(reply.sent_s, reply.end_s)

    def _unsent_s(self, reply: Reply) -> float:
        """Return for how long an answer's end may have been ready and not sent; it was not before the token before."""
        sends_s = reply.token_at_s[-2] if len(reply.token_at_s) > 1 else reply.sent_s
        return min(self.series.kept_waiting_s(sends_s, reply.end_s), reply.end_s - sends_s)

    def slept_through(self, sleep: Sleep) -> bool:
        """Return whether the machine stood still for so much of a sleep that its last third tells nothing."""
        return self.series.stalled_s(sleep.told_s, sleep.woken_s) > (sleep.woken_s - sleep.told_s) / 3

    def _opened(self) -> int | None:
        sent_s = self.run.first.sent_s
        return self.series.typical(sent_s - 0.5 * SETTLE_S, sent_s)

    def _awake(self, reply: Reply) -> int | None:
        """Return the memory behind a turn, while the session cannot have left."""
        end_s = min(reply.end_s + SETTLE_S, self.leaves_s(reply))
        return self.series.typical(reply.end_s + 0.2 * SETTLE_S, end_s)

    def _asleep(self, sleep: Sleep) -> int | None:
        if self.slept_through(sleep):
            return None
        return self.series.typical(max(sleep.still_s, sleep.woken_s - 1.0), sleep.woken_s)

    def _closed(self) -> int | None:
        return self.series.typical(self.run.gone_s - 0.5 * SETTLE_S, self.run.gone_s)
