"""How fast a pool's blocks leave and come back, over the link's ceiling.

Informative: a server with a pool claims to move them, not how fast.

A restore is timed by the link's counters, as in `speed_criteria.py`, and by the server's own clock; what is stored goes
over the link while others compute, so there the server's clock alone tells.
"""

from __future__ import annotations

from statistics import median

from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.pool.counts import Counts
from djinn_checks.checks.agents.pool.run import PoolRun
from djinn_checks.outcome import Criterion, Row
from djinn_checks.units import format_percent

_STORE = Row("swap_out_of_ceiling", "The KV leaves at the link's speed", unit="share of ceiling", required=False)
_RESTORE = Row("restore_of_ceiling", "The KV comes back at the link's speed", unit="share of ceiling", required=False)


def judge_pool_moves(evidence: AgentsEvidence, pool: PoolRun) -> list[Criterion]:
    """Return the rows about the speed of stores and restores."""
    if evidence.link is None:
        return [row.skip(evidence.why_no_link) for row in (_STORE, _RESTORE)]
    return [_stored(evidence, pool), _restored(evidence, pool)]


def _stored(evidence: AgentsEvidence, pool: PoolRun) -> Criterion:
    ceiling, rate = _ceiling(evidence, "out"), store_rate(pool.counted)
    return _STORE.judge(
        rate / ceiling if rate and ceiling else None,
        ">=",
        evidence.params.swap_of_ceiling,
        evidence=f"bytes stored over their time, by the server's clock, all sessions of the run; {_say(ceiling)}",
        missing=pool.why_missing("store_bytes", "store_s"),
    )


def _restored(evidence: AgentsEvidence, pool: PoolRun) -> Criterion:
    ceiling = _ceiling(evidence, "in")
    by_server = [rate for rate in (load_rate(sleep.woken) for sleep in pool.sleeps) if rate is not None]
    on_link = _on_link(evidence)
    lowest = median(on_link) / ceiling if on_link and ceiling else None
    told = median(by_server) / ceiling if by_server and ceiling else None
    return _RESTORE.judge(
        lowest if lowest is not None else told,
        ">=",
        evidence.params.swap_of_ceiling,
        evidence=f"medians: {format_percent(lowest)} by the counters of the link at the least, {format_percent(told)} "
        f"by the server's clock; {_say(ceiling)}",
        missing="the link's counters did not time it, and " + pool.why_missing("load_bytes", "load_s"),
    )


def load_rate(counts: Counts) -> float | None:
    """Return bytes per second of what was loaded, by the server's clock; None if it does not say, or nothing was."""
    return counts.load_bytes / counts.load_s if counts.load_bytes and counts.load_s else None


def store_rate(counts: Counts) -> float | None:
    """Return the same of what was stored."""
    return counts.store_bytes / counts.store_s if counts.store_bytes and counts.store_s else None


def _ceiling(evidence: AgentsEvidence, direction: str) -> float | None:
    found = evidence.link.ceilings.get(direction) if evidence.link else None
    return found.bytes_per_s if found else None


def _on_link(evidence: AgentsEvidence) -> list[float]:
    """Return the least bytes per second of each restore that agree with the link's counters."""
    rates = []
    for sleep in evidence.sleeper.sleeps:
        host = sleep.reply.sources.host if sleep.reply.sources else None
        if not host or evidence.link is None:
            continue
        nbytes = int(host * evidence.token_bytes)
        found = evidence.link.time_move("in", nbytes, sleep.woken_s, sleep.reply.token_at_s[0])
        if found is not None and found.greatest_s:
            rates.append(nbytes / found.greatest_s)
    return rates


def _say(ceiling: float | None) -> str:
    return f"the ceiling is {ceiling / 1e9:.1f} GB/s" if ceiling else "the ceiling is unknown"
