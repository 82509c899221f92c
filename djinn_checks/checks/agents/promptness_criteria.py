"""The rows about what a sleep is for: room that others get soon, an agent that is not kept waiting, nothing left over.

A server may move a session's KV faithfully and still hold its place for most of the sleep, have the agent wait
for a timer when it is wanted, or keep the memory of sessions that are closed.
"""

from __future__ import annotations

from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.memory import UNREAD, Delay
from djinn_checks.outcome import Criterion, Row
from djinn_checks.units import format_bytes, format_seconds

_SLOWEST_BYTES_PER_S = 1e9
"""What any way between two memories carries; on a GPU the ceiling is measured instead."""
_NO_SESSIONS = "a server of kind 'none' has no sessions that could be closed"


def judge_promptness(evidence: AgentsEvidence) -> list[Criterion]:
    """Return the rows about when memory is given back and when the agent speaks again."""
    return [_left_soon(evidence), judge_wake(evidence), _closing_frees(evidence)]


def _left_soon(evidence: AgentsEvidence) -> Criterion:
    """A session that is told to sleep may take no longer than the idle threshold, by which one that is not told
    has to begin; that one may take as long again."""
    is_told = evidence.params.adapter in ("signal", "slot")
    limit_s, delay = evidence.params.idle_s * (1 if is_told else 2), evidence.time_to_leave()
    row = Row("kv_left_soon", "The KV's place on the device was given back soon after the agent went idle", unit="s")
    return row.judge(
        delay.within(limit_s) if delay else None,
        "<=",
        limit_s,
        evidence=f"{evidence.memory.source if evidence.memory else 'no instrument'}, read 50 times a second",
        missing=evidence.memory_reason or evidence.why_unresolved or _why_open(delay, UNREAD),
        failed="for so long nobody else could use it",
    )


def judge_wake(evidence: AgentsEvidence) -> Criterion:
    """Return the row about a wake that waits for its bytes and for nothing else.

    A resume that waits for a periodic look at idle sessions waits for half its period on average.
    """
    rate = _SLOWEST_BYTES_PER_S
    if evidence.link is not None:
        rate = evidence.params.swap_of_ceiling * evidence.link.ceilings["in"].bytes_per_s
    move_s = max(evidence.kv_bytes(sleep.tokens) for sleep in evidence.sleeper.sleeps) / rate
    limit_s = evidence.params.idle_s / 2 + move_s
    noise_s, delay = evidence.wake_noise_s(), evidence.wake_delay()
    row = Row("woke_at_once", "The agent's first token after a sleep comes as soon as its KV can be back", unit="s")
    slow_way = _slow_way(evidence, delay, limit_s)
    return row.judge(
        delay.within(limit_s) if delay and not slow_way else None,
        "<=",
        limit_s,
        evidence="time to the first token after a sleep, less the twins' in the same turn, by the client's clock; "
        f"the twins' differ by {format_seconds(noise_s)}, the move may take {format_seconds(move_s)}",
        floor=noise_s,
        missing=slow_way or _why_open(delay, "there is no twin's turn to compare with"),
        failed="what does it wait for?",
    )


def _slow_way(evidence: AgentsEvidence, delay: Delay | None, limit_s: float) -> str:
    """Return how a slow way back may explain a wake that is too late; empty if it is not, or nothing explains it.

    A server of sessions times its restores as a whole. One with a pool counts at most its copies from host memory, and
    not what lies before them: a disk, another machine.
    """
    if delay is None or delay.within(limit_s) is None or delay.least_s <= limit_s:
        return ""
    late = f"{format_seconds(delay.least_s)} late, expected at most {format_seconds(limit_s)}"
    if evidence.pool is not None:
        said = [sleep.woken.load_s for sleep in evidence.pool.sleeps if sleep.woken.load_s is not None]
        told = f"loads took {format_seconds(max(said))}" if said else "nothing of how long its loads took"
        return f"{late}: its KV may have come over a slow way, as from a disk; the server says {told}"
    restore_s = evidence.unloaded_restore_s()
    if restore_s is None or delay.least_s - restore_s > limit_s:
        return ""
    return f"{late}, of which {format_seconds(restore_s)} are its restore, by the server's clock: is the way slow?"


def _why_open(delay: Delay | None, unknown: str) -> str:
    if delay is None:
        return unknown
    own = format_seconds(delay.most_s - delay.least_s)
    return f"it took {format_seconds(delay.most_s)}, of which {own} may be noise or the machine's own: is it busy?"


def _closing_frees(evidence: AgentsEvidence) -> Criterion:
    memory, share = evidence.session_memory, evidence.params.memory_share
    has_sessions = evidence.params.adapter != "none"
    size = evidence.kv_bytes(evidence.sleeper.last_tokens)
    fall = memory.freed() if memory and has_sessions else None
    freed, doubt = fall.share(size, share, evidence.device.type) if fall else (None, "")
    unread = (
        "the memory was not read around the closing, or the session had left by then" if has_sessions else _NO_SESSIONS
    )
    row = Row(
        "closing_frees",
        "When the session was closed, its KV's bytes left the device's memory",
        unit="times the session's KV",
    )
    return row.judge(
        freed,
        ">=",
        share,
        evidence=f"{evidence.memory.source if evidence.memory else 'no instrument'}; its KV was {format_bytes(size)}",
        missing=evidence.memory_reason or doubt or unread,
        failed="a closed session's memory is still taken",
    )
