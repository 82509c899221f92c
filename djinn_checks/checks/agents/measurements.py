"""The agents check's plain data for the report, and its one-sentence summary.

Texts, token ids and counts are the same for the same params; all that depends on the clock goes into timings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from djinn_checks.checks.agents.crowd import CrowdRun, percentile
from djinn_checks.checks.agents.crowd_distance import distances
from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.first_wrong import find_first_wrong
from djinn_checks.checks.agents.pressure import gather_pressure
from djinn_checks.checks.agents.reply import Reply, SessionRecord
from djinn_checks.checks.agents.token_pace import TokenPace
from djinn_checks.measurements.agents import (
    AgentsMeasurements,
    AgentsTimings,
    CrowdTimes,
    PaceFacts,
    PhaseRow,
    Said,
    SessionFacts,
)
from djinn_checks.outcome import Criterion, Status
from djinn_checks.units import format_bytes, format_seconds

_POINTS = 1500


def gather_measurements(evidence: AgentsEvidence) -> AgentsMeasurements:
    """Return what was said and counted."""
    run, found = evidence.sleeper, evidence.reference
    return {
        "turns": [
            {
                "prompt_tokens": len(history),
                "slept": _said(evidence, run.slept[number]),
                "hot": _said(evidence, run.hot[number]),
                "cold": _said(evidence, run.cold[number - 1]) if number else None,
                "nll_slept": found.nll_slept[number],
                "nll_hot": found.nll_hot[number],
            }
            for number, history in enumerate(run.histories)
        ],
        "sleeps": [{"kv_bytes": evidence.kv_bytes(sleep.tokens)} for sleep in run.sleeps],
        "agents": len(evidence.crowd.scripts) if evidence.crowd else 0,
        "server_version": evidence.pool.version if evidence.pool else None,
    }


def gather_timings(evidence: AgentsEvidence) -> AgentsTimings:
    """Return everything that the clock has to do with, seconds from the sleeper's first request."""
    run = evidence.sleeper
    start = run.first.sent_s
    return {
        "phases": _phases(evidence, start),
        "memory": _memory(evidence, start, start - 1, run.gone_s),
        "memory_source": evidence.memory.source if evidence.memory else None,
        "sleeps": [
            {
                "told_s": sleep.told_s - start,
                "woken_s": sleep.woken_s - start,
                "first_token_s": sleep.reply.token_at_s[0] - start,
                "swap": _record(sleep.asleep),
                "restore": _record(sleep.after),
                "wake_s": sleep.reply.wake_s,
            }
            for sleep in run.sleeps
        ],
        "wake_hot_s": [reply.wake_s for reply in run.hot[1:]],
        "wake_cold_s": [reply.wake_s for reply in run.cold],
        "pace": _pace(evidence.token_pace),
        "ceilings_bytes_per_s": {
            name: ceiling.bytes_per_s for name, ceiling in (evidence.link.ceilings if evidence.link else {}).items()
        },
        "memory_changes": _memory_changes(evidence),
        "counted_bytes": {name: _carried(evidence, name) for name in ("out", "in")} if evidence.link else None,
        "swap_bytes_per_s": {name: evidence.swap_rates(name) for name in ("out", "in")},
        "moves_on_link_s": {name: _on_link(evidence, name) for name in ("out", "in")},
        "crowd": _crowd(evidence, evidence.crowd) if evidence.crowd else None,
        "first_wrong": find_first_wrong(evidence),
    }


def summarize(evidence: AgentsEvidence, criteria: Sequence[Criterion], status: Status) -> str:
    """Return the outcome in one sentence."""
    params, run = evidence.params, evidence.sleeper
    size = format_bytes(evidence.kv_bytes(run.sleeps[0].tokens))
    who = f"{params.system} with {params.model}"
    if status is not Status.PASS:
        of_status = (criterion for criterion in criteria if criterion.required and criterion.status is status)
        worst = next(of_status, None)
        return f"{who}: {worst.title}: {worst.reason}" if worst else who
    times = "once" if params.sleeps == 1 else f"{params.sleeps} times"
    is_counted = any(row.name == "kv_in_on_link" and row.status is Status.PASS for row in criteria)
    whose = " by the server's own account" if evidence.pool and not is_counted else ""
    text = f"{who}: {size} of KV left and came back{whose}, {times}, the text is the twin's"
    if evidence.crowd is None:
        return text
    p99 = percentile([reply.felt_wake_s for reply in evidence.crowd.wakes()], 99)
    return f"{text}; {params.agents} agents at once, wake p99 {format_seconds(p99)}"


def _said(evidence: AgentsEvidence, reply: Reply) -> Said:
    pieces = [evidence.decode([token]) or f" {token}" for token in reply.ids] if reply.ids else [reply.text]
    return {"text": reply.text, "pieces": pieces}


def _phases(evidence: AgentsEvidence, start: float) -> list[PhaseRow]:
    run = evidence.sleeper
    spans = [("computes", run.first.sent_s, run.first.end_s)]
    for sleep in run.sleeps:
        spans += [
            ("sleeps", sleep.told_s, sleep.woken_s),
            ("wakes", sleep.woken_s, sleep.reply.token_at_s[0]),
            ("computes", sleep.reply.token_at_s[0], sleep.reply.end_s),
        ]
    return [{"phase": name, "start_s": a - start, "end_s": b - start} for name, a, b in spans]


def _memory(evidence: AgentsEvidence, zero_s: float, start_s: float, end_s: float) -> list[list[float]]:
    """Return [seconds, bytes] pairs, thinned to what a plot can show."""
    memory = evidence.memory
    if memory is None:
        return []
    inside = [
        [at - zero_s, float(used)]
        for at, used in zip(memory.t_s, memory.used_bytes, strict=True)
        if start_s <= at <= end_s
    ]
    return inside[:: -(-len(inside) // _POINTS) or 1]


def _memory_changes(evidence: AgentsEvidence) -> list[list[int]] | None:
    """Return by how many bytes the memory fell and rose in each sleep; None if it was not read in one of them."""
    memory, sleeps = evidence.session_memory, evidence.sleeper.sleeps
    if memory is None:
        return None
    changes = [(memory.left(sleep), memory.came_back(sleep)) for sleep in sleeps]
    known = [[left.fell_bytes, back] for left, back in changes if left is not None and back is not None]
    return known if len(known) == len(sleeps) else None


def _on_link(evidence: AgentsEvidence, direction: str) -> list[list[float]] | None:
    """Return the least and the greatest time of each move."""
    times, _ = evidence.move_times(direction)
    return [[move.least_s, move.greatest_s] for move in times] or None


def _carried(evidence: AgentsEvidence, direction: str) -> list[float] | None:
    carried = evidence.carried(direction)
    return None if carried is None else [part.nbytes for part in carried]


def _record(record: SessionRecord | None) -> SessionFacts | None:
    if record is None:
        return None
    return {
        "state": record.state,
        "swaps": record.swaps,
        "restores": record.restores,
        "swapped_bytes": record.swapped_bytes,
        "restored_bytes": record.restored_bytes,
        "swap_s": record.swap_s,
        "restore_s": record.restore_s,
        "allocate_s": record.allocate_s,
        "digest_s": record.digest_s,
        "digest_out": record.digest_out,
        "digest_in": record.digest_in,
    }


def _pace(pace: TokenPace | None) -> PaceFacts | None:
    if pace is None:
        return None
    return {"server_s": list(pace.server_s), "generate_s": list(pace.generate_s), "reason": pace.reason}


def _crowd(evidence: AgentsEvidence, crowd: CrowdRun) -> CrowdTimes:
    start, own = crowd.started_s, sum(map(len, crowd.replies))
    wakes = crowd.wakes()
    seconds = [reply.felt_wake_s for reply in wakes]
    back = crowd.restore_times_s()
    return {
        "offered_load": crowd.offered_load,
        "pressure": gather_pressure(evidence, crowd),
        "duration_s": crowd.ended_s - start,
        "swaps": crowd.swaps,
        "restores": crowd.restores,
        "wakes": [
            {
                "sent_s": reply.asked_s - start,
                "wake_s": reply.felt_wake_s,
                "queue_s": None if reply.queue_s is None else reply.queue_s + reply.refused_s,
                "restore_s": reply.restore_s,
                "compute_s": reply.compute_s,
            }
            for reply in wakes
        ],
        "wake_p50_s": percentile(seconds, 50),
        "wake_p99_s": percentile(seconds, 99),
        "restore_p50_s": percentile(back, 50),
        "restore_p99_s": percentile(back, 99),
        "unloaded_restore_s": evidence.unloaded_restore_s(),
        "turns": [
            (number, reply.asked_s - start, reply.token_at_s[0] - start, reply.end_s - start)
            for number, replies in enumerate(crowd.replies)
            for reply in replies
        ],
        "apart_nats": [_finite(turn.nats) for turn in distances(crowd, is_pool=evidence.pool is not None)][:own],
        "host_tokens": int(crowd.counts.host) if crowd.counts and crowd.counts.host is not None else None,
        "states": [
            (sample.answered_s - start, _tally(sample.states))
            for sample in crowd.samples[:: -(-len(crowd.samples) // _POINTS) or 1]
        ],
        "memory": _memory(evidence, start, start - 0.5, crowd.ended_s),
    }


def _finite(nats: float | None) -> float | None:
    return nats if nats is not None and math.isfinite(nats) else None


def _tally(states: dict[str, str]) -> dict[str, int]:
    found = list(states.values())
    return {state: found.count(state) for state in sorted(set(found))}
