"""How fast a pool's blocks come back, over the link's ceiling. Informative: a pool claims to move them, not how fast.

By the link's counters, as in `speed_criteria.py`, and by the server's own clock.
"""

from __future__ import annotations

from statistics import median

from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.pool.run import PoolRun
from djinn_checks.outcome import Criterion, Row

_RESTORE = Row("restore_of_ceiling", "The KV comes back at the link's speed", unit="share of ceiling", required=False)


def judge_pool_moves(evidence: AgentsEvidence, pool: PoolRun) -> list[Criterion]:
    """Return the row about the restore's speed."""
    link = evidence.link
    if link is None:
        return [_RESTORE.skip(evidence.why_no_link)]
    ceiling = link.ceilings["in"].bytes_per_s if "in" in link.ceilings else 0.0
    by_server = [rate for rate in map(_rate, (sleep.woken for sleep in pool.sleeps)) if rate is not None]
    on_link = _on_link(evidence)
    lowest = median(on_link) / ceiling if on_link and ceiling else None
    told = median(by_server) / ceiling if by_server and ceiling else None
    return [
        _RESTORE.judge(
            lowest if lowest is not None else told,
            ">=",
            evidence.params.swap_of_ceiling,
            evidence=f"medians: {_say(lowest)} by the counters of the link at the least, {_say(told)} by the server's "
            f"clock; the ceiling is {ceiling / 1e9:.1f} GB/s",
            missing=evidence.why_not_counted if link.series is None else "the move could not be timed",
        )
    ]


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


def _rate(counts: object) -> float | None:
    nbytes, seconds = getattr(counts, "load_bytes", None), getattr(counts, "load_s", None)
    return nbytes / seconds if nbytes and seconds else None


def _say(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"
