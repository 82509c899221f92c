"""By how many tokens a session came back short of what it had, and what may explain it before it is held against a
server: what it keeps in whole chunks or leaves out, and what is not known of it.
"""

from __future__ import annotations

from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.pool.adapters import POOLS
from djinn_checks.checks.agents.pool.run import PoolRun, is_accounted, kept_of, off_device
from djinn_checks.checks.agents.reply import Reply, Sources
from djinn_checks.checks.agents.sleeper import Sleep
from djinn_checks.outcome import Criterion, Row

_LARGEST_CHUNK = 256
"""Tokens that a host tier keeps together by default: LMCache's chunks, the largest of those that are known."""
_NO_IDS = "the server gives no token ids: the next prompt may not continue what was cached"
_LARGER_CHUNKS = "does the host keep larger chunks than the device's blocks? Give host_block_tokens"
_OTHER_ENGINE = (
    "a twin that never slept lacked {count} tokens on the device, too: is a turn answered by another engine than the "
    "one before it? Ask one engine"
)
_NO_CHUNK = "the host keeps {chunk} tokens together, and so many the session has not; give more prompt_tokens"


def sources_of(evidence: AgentsEvidence) -> list[tuple[Sleep, Sources]]:
    """Return each sleep with the sources of the turn after it; nothing unless all are known and add up."""
    sleeps = evidence.sleeper.sleeps
    if not is_accounted([sleep.reply for sleep in sleeps]):
        return []
    return [(sleep, sleep.reply.sources) for sleep in sleeps if sleep.reply.sources is not None]


def judge_short(row: Row, evidence: AgentsEvidence, pool: PoolRun, *, told: str, failed: str) -> Criterion:
    """Hold what a session came back short of, in its worst turn, against what its server need not keep."""
    found, allowed = shortfalls(evidence), most_short(evidence, pool)
    most = max((max(0, short) for short in found), default=None)
    doubt = _why_open(evidence, pool, found) if most is not None and most > allowed else _no_chunk(evidence, pool)
    return row.judge(
        None if doubt else most,
        "<=",
        allowed,
        evidence=f"{told}{_tell_chunks(evidence)}{_tell_left_out(evidence, pool)}",
        missing=f"{most} tokens short, expected at most {allowed}: {doubt}"
        if doubt
        else pool.why_missing("prompt", "device", "host"),
        failed=failed,
    )


def shortfalls(evidence: AgentsEvidence) -> list[int]:
    """Return by how many tokens less than a session had came from a cache after each sleep.

    Without token ids an answer's tokens are those of its text, which need not be the ones that were cached: then what
    its twin that never slept lacked in the same turn is not counted.
    """
    return [
        kept_of(sleep) - (sources.device or 0) - (sources.host or 0) - (_twins_own(sleep, twin) or 0)
        for (sleep, sources), twin in zip(sources_of(evidence), evidence.sleeper.hot[1:], strict=False)
    ]


def most_short(evidence: AgentsEvidence, pool: PoolRun) -> int:
    """Return by how many tokens a session may come back short: less than a block or chunk, and what is left out."""
    chunk = max(pool.block_tokens or 1, evidence.params.host_block_tokens or 1)
    return chunk - 1 + _left_out(evidence, pool)


def why_again(evidence: AgentsEvidence, pool: PoolRun) -> str:
    """Return why a block and more was computed again, if it may be; empty if it was not."""
    found = shortfalls(evidence)
    if max(found, default=0) < (pool.block_tokens or 1):
        return ""
    if _left_out(evidence, pool):
        return f"{POOLS[pool.kind].leaves_out}; so started it is decided"
    if max(found) <= most_short(evidence, pool):
        return f"the host keeps chunks of {evidence.params.host_block_tokens} tokens"
    return _why_open(evidence, pool, found)


def _why_open(evidence: AgentsEvidence, pool: PoolRun, found: list[int]) -> str:
    """Return what is not known of a server that may explain what a session lacks; empty if nothing is."""
    run, left_out = evidence.sleeper, _left_out(evidence, pool)
    if elsewhere := off_device(run, pool.block_tokens or _LARGEST_CHUNK):
        return _OTHER_ENGINE.format(count=elsewhere)
    if any(_twins_own(sleep, twin) is None for sleep, twin in zip(run.sleeps, run.hot[1:], strict=False)):
        return _NO_IDS
    is_small = max(found) - left_out < _LARGEST_CHUNK
    has_come = all(sources.host for _, sources in sources_of(evidence))
    if not is_small or not has_come:
        return ""
    if pool.block_tokens is None:
        names = " or ".join(map(str, POOLS[pool.kind].block_tokens))
        return f"the server does not say of how many tokens its blocks are ({names}); give host_block_tokens"
    return "" if evidence.params.host_block_tokens else _LARGER_CHUNKS


def _no_chunk(evidence: AgentsEvidence, pool: PoolRun) -> str:
    """Return why nothing can have come from the host; empty if it may have."""
    sources, chunk = sources_of(evidence), most_short(evidence, pool) - _left_out(evidence, pool) + 1
    none_came = any(not found.host and not found.device for _, found in sources)
    return _NO_CHUNK.format(chunk=chunk) if none_came else ""


def _twins_own(sleep: Sleep, twin: Reply) -> int | None:
    """Return what the twin that never slept lacked on the device; 0 where ids are given, None if it is not known."""
    if sleep.last.ids:
        return 0
    if twin.sources is None or twin.sources.device is None:
        return None
    return max(0, kept_of(sleep) - twin.sources.device)


def _left_out(evidence: AgentsEvidence, pool: PoolRun) -> int:
    """Return how many tokens of a session's last answer such a server need not keep when the session goes idle."""
    if not POOLS[pool.kind].leaves_out:
        return 0
    return max(_answered(sleep) for sleep in evidence.sleeper.sleeps)


def _answered(sleep: Sleep) -> int:
    """Return the tokens of the answer before a sleep; from a server that gives no ids, those that it counted."""
    return len(sleep.last.ids) or max(0, sleep.tokens - (sleep.last.prompt_tokens or sleep.tokens))


def _tell_chunks(evidence: AgentsEvidence) -> str:
    chunk = evidence.params.host_block_tokens
    return f"; by host_block_tokens its host keeps {chunk} together" if chunk else ""


def _tell_left_out(evidence: AgentsEvidence, pool: PoolRun) -> str:
    count = _left_out(evidence, pool)
    return f"; the last answer's {count} may be computed again: {POOLS[pool.kind].leaves_out}" if count else ""
