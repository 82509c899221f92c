"""The rows about an agent on a server that keeps all KV in one pool: the same four proofs, resting on other evidence.

    its KV left the device        after others' prompts none of its tokens were served from there
    it came back                  the server names the host as their source; bytes loaded, and counted on the link
    it was not computed again     what was computed is new, but for less than a block; rounding, time
    the agent is who it was       text and log-probabilities are those of the twin that never slept

The pool is taken when the server starts, so the device's memory says nothing about a session. And such a server may
write a session's KV to the host at once and not when it goes idle: that is not held against it.
"""

from __future__ import annotations

from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.identity_criteria import (
    judge_coherence,
    judge_generated,
    judge_sameness,
    judge_speaker,
)
from djinn_checks.checks.agents.pool.adapters import POOLS
from djinn_checks.checks.agents.pool.run import BorderTrial, PoolRun, is_accounted, kept_of, served_beyond, strangers
from djinn_checks.checks.agents.pool.speed import judge_pool_moves
from djinn_checks.checks.agents.promptness_criteria import judge_wake
from djinn_checks.checks.agents.recompute_criteria import judge_recomputation, was_carried
from djinn_checks.checks.agents.reply import Sources
from djinn_checks.checks.agents.sleeper import Sleep
from djinn_checks.checks.agents.sleeper_criteria import judge_survival
from djinn_checks.checks.agents.speed_criteria import judge_decode
from djinn_checks.outcome import Criterion, Row
from djinn_checks.units import format_bytes

_BY_SERVER = "the server's own account of each turn's prompt tokens"
_HARMFUL, _TINY = 2.0, 1e-3
"""Times the most that as many other answers are off, and in nats what rounding does anyhow. Answers of one kind are
seldom all beyond that. vLLM 0.26.0, which serves such tokens, was five to eight times off."""
_UNPUSHED = (
    "nothing pushed the session off the device: the server does not say how much its pool holds, or it holds more than "
    "others' prompts fill here, and it has no route that empties its cache; give pressure_tokens, or start it with "
    "{needs}"
)


def judge_pool(evidence: AgentsEvidence, pool: PoolRun) -> list[Criterion]:
    """Return the rows about the sleeper on a server with a pool."""
    on_link = _loaded_on_link(evidence, pool)
    return [
        judge_survival(evidence),
        judge_speaker(evidence),
        _twins(evidence, pool),
        _left_device(evidence, pool),
        _stored_on_link(evidence, pool),
        _from_host(evidence, pool),
        _fed_back(evidence, pool),
        _loaded(evidence, pool),
        on_link,
        judge_wake(evidence),
        _not_recomputed(evidence, pool),
        *judge_recomputation(evidence, again=_why_again(evidence, pool), is_counted=was_carried(on_link)),
        *judge_sameness(evidence),
        judge_coherence(evidence),
        *judge_pool_moves(evidence, pool),
        judge_generated(evidence),
        judge_decode(evidence),
    ]


def _twins(evidence: AgentsEvidence, pool: PoolRun) -> Criterion:
    """That each session was itself alone is no claim of the server's: without it nothing can be compared."""
    run = evidence.sleeper
    row = Row("twins_are_twins", "No session was served from another's blocks", unit="tokens")
    found = strangers(run, pool.block_tokens or 1)
    all_replies = (*run.hot, *run.again, *run.cold, *run.part, *run.slept)
    return row.judge(
        found if is_accounted(all_replies) else None,
        "==",
        0,
        evidence=f"{_BY_SERVER}, {len(all_replies)} turns: computed where a session is new, on the device where it "
        "never slept",
        missing=pool.why_missing("prompt", "device", "host"),
        failed="sessions share what is cached, whatever salt they have: a twin's copy may stand in for the sleeper's",
        instrument=True,
    )


def _sources(evidence: AgentsEvidence) -> list[tuple[Sleep, Sources]]:
    """Return each sleep with the sources of the turn after it; nothing unless all are known and add up."""
    sleeps = evidence.sleeper.sleeps
    if not is_accounted([sleep.reply for sleep in sleeps]):
        return []
    return [(sleep, sleep.reply.sources) for sleep in sleeps if sleep.reply.sources is not None]


def _left_device(evidence: AgentsEvidence, pool: PoolRun) -> Criterion:
    row = Row(
        "kv_left_device", "After others had the device, the session's tokens were not served from it", unit="tokens"
    )
    found = [sources.device or 0 for _, sources in _sources(evidence)]
    pushed = [sleep.by for sleep in pool.sleeps]
    how = ", ".join(
        f"by {sleep.by}" + (f" of {sleep.pressed_tokens:,} tokens" if sleep.pressed_tokens else "")
        for sleep in pool.sleeps
        if sleep.by
    )
    return row.judge(
        max(found, default=None) if all(pushed) else None,
        "<=",
        0,
        evidence=f"{_BY_SERVER}; pushed out {how or 'by nothing'}; the pool holds {_say(pool.pool_tokens)} tokens",
        missing=pool.why_missing("prompt", "device", "host") if all(pushed) else _UNPUSHED.format(needs=_needs(pool)),
        failed="they were still there",
    )


def _needs(pool: PoolRun) -> str:
    return "VLLM_SERVER_DEV_MODE=1" if pool.kind == "vllm" else "a smaller pool"


def _from_host(evidence: AgentsEvidence, pool: PoolRun) -> Criterion:
    row = Row(
        "kv_from_host",
        "The session's tokens came back from outside the device, but for what its server leaves out",
        unit="tokens short",
    )
    found = _short(evidence)
    none_came = all(sources.host == 0 for _, sources in _sources(evidence))
    return row.judge(
        max((max(0, short) for short in found), default=None),
        "<=",
        (pool.block_tokens or 1) - 1 + _left_out(evidence, pool),
        evidence=f"{_BY_SERVER}; it keeps blocks of {_say(pool.block_tokens)} tokens{_tell_left_out(evidence, pool)}",
        missing=pool.why_missing("prompt", "device", "host"),
        failed="none came from there: is offloading on?" if none_came else "they were lost, and computed again",
    )


def _fed_back(evidence: AgentsEvidence, pool: PoolRun) -> Criterion:
    """An answer's last token is not fed back, so it has no KV, but for a server that guessed it and was right: if one
    came from a cache, some answers that end so are held against some that do not. Informative where none came."""
    block, sleeps = pool.block_tokens, evidence.sleeper.sleeps
    found = max(0, served_beyond(evidence.sleeper)) if _sources(evidence) else None
    row = Row("served_was_computed", "No token came from a cache whose KV nobody had computed", unit="tokens",
              required=bool(found))  # fmt: skip
    told = f"{_BY_SERVER}, against the tokens that were fed back; an answer ended where a block does"
    if block is None or not any(sleep.tokens % block == 0 for sleep in sleeps):
        return row.judge(None, "<=", 0, evidence=told, missing="no answer ended where a block does")
    if not found:
        return row.judge(found, "<=", 0, evidence=told, missing=pool.why_missing("prompt", "device", "host"))
    trial = pool.border
    told = (
        f"{told}; {found} more came than was fed back, and where answers end so, the next are "
        f"{_span(trial, inside=False)} from ones computed anew, and {_span(trial, inside=True)} where they end a token "
        "before"
    )
    judged: int | None = None
    if trial is not None and trial.is_whole and strangers(evidence.sleeper, block) == 0:
        usual = max(_HARMFUL * trial.span(inside=True)[1], _TINY)
        least, most = trial.span(inside=False)
        judged = 0 if most <= usual else found if least > usual else None
    return row.judge(
        judged,
        "<=",
        0,
        evidence=told,
        missing="it is not clear whether that does harm",
        failed="an answer's last token is not fed back, and what lies in its place is not its KV",
    )


def _span(trial: BorderTrial | None, *, inside: bool) -> str:
    if trial is None or not trial.is_whole:
        return "an unknown number of nats"
    least, most = trial.span(inside=inside)
    return f"{least:.3g} to {most:.3g} nats"


def _not_recomputed(evidence: AgentsEvidence, pool: PoolRun) -> Criterion:
    row = Row(
        "prefill_counted",
        "Of what the session had, no more than its server leaves out was computed again",
        unit="tokens",
    )
    found = [
        (sources.computed or 0) - ((sleep.reply.prompt_tokens or 0) - kept_of(sleep))
        for sleep, sources in _sources(evidence)
    ]
    return row.judge(
        max((max(0, again) for again in found), default=None),
        "<=",
        (pool.block_tokens or 1) - 1 + _left_out(evidence, pool),
        evidence=f"{_BY_SERVER}, against the tokens that the session had; a paged cache keeps whole blocks"
        f"{_tell_left_out(evidence, pool)}",
        missing=pool.why_missing("prompt", "device", "host"),
    )


def _short(evidence: AgentsEvidence) -> list[int]:
    """Return by how many tokens less than a session had came from a cache after each sleep."""
    return [kept_of(sleep) - (sources.device or 0) - (sources.host or 0) for sleep, sources in _sources(evidence)]


def _left_out(evidence: AgentsEvidence, pool: PoolRun) -> int:
    """Return how many tokens of a session's last answer such a server need not keep when the session goes idle."""
    if not POOLS[pool.kind].leaves_out:
        return 0
    return max(_answered(sleep) for sleep in evidence.sleeper.sleeps)


def _answered(sleep: Sleep) -> int:
    """Return the tokens of the answer before a sleep; from a server that gives no ids, those that it counted."""
    return len(sleep.last.ids) or max(0, sleep.tokens - (sleep.last.prompt_tokens or sleep.tokens))


def _tell_left_out(evidence: AgentsEvidence, pool: PoolRun) -> str:
    count = _left_out(evidence, pool)
    return f"; the last answer's {count} may be computed again: {POOLS[pool.kind].leaves_out}" if count else ""


def _why_again(evidence: AgentsEvidence, pool: PoolRun) -> str:
    """Return why a block and more was computed again, if such a server may; empty if it was not."""
    is_more = max(_short(evidence), default=0) >= (pool.block_tokens or 1)
    return f"{POOLS[pool.kind].leaves_out}; so started it is decided" if is_more and _left_out(evidence, pool) else ""


def _loaded(evidence: AgentsEvidence, pool: PoolRun) -> Criterion:
    row = Row("loads_counted", "The server counted the bytes that it loaded for the session", unit="times the KV")
    shares = _shares(evidence, [sleep.woken.load_bytes for sleep in pool.sleeps])
    return row.judge(
        min(shares, default=None),
        ">=",
        evidence.params.memory_share,
        evidence=f"the server's counter of loaded bytes; a token's KV is {format_bytes(evidence.token_bytes)}",
        missing=pool.why_missing("load_bytes", "prompt", "device", "host"),
        failed="fewer bytes were loaded than the tokens have that are said to have come from the host",
    )


def _loaded_on_link(evidence: AgentsEvidence, pool: PoolRun) -> Criterion:
    row = Row("kv_in_on_link", "The KV's bytes went over the link, back to the device", unit="times the session's KV")
    link = evidence.link
    if link is None:
        return row.skip(evidence.why_no_link)
    shares = _shares(evidence, list(evidence.counted("in") or []))
    return row.judge(
        min(shares, default=None),
        ">=",
        evidence.params.memory_share,
        evidence="PCIe counters of the GPU, calibrated with copies of known size; until the first token, less what "
        "they count of a link at rest; against the tokens that are said to have come from the host",
        missing=pool.why_missing("prompt", "device", "host") if evidence.counted("in") else evidence.why_not_counted,
        failed="fewer bytes were moved by then",
    )


def _stored_on_link(evidence: AgentsEvidence, pool: PoolRun) -> Criterion:
    """Informative: when a server with a pool writes a session to the host is its own affair."""
    row = Row("kv_out_on_link", "The KV's bytes went over the link, off the device", unit="times the session's KV",
              required=False)  # fmt: skip
    link, run = evidence.link, evidence.sleeper
    if link is None:
        return row.skip(evidence.why_no_link)
    counted = link.counted("out", run.first.sent_s, pool.left_s)
    size = pool.whole_blocks(run.sleeps[0].tokens) * evidence.token_bytes
    return row.judge(
        None if counted is None or not size else counted / size,
        ">=",
        evidence.params.memory_share,
        evidence="PCIe counters of the GPU, from the session's first request until others came: such a server writes "
        "at once, and not when a session goes idle",
        missing=evidence.why_not_counted,
    )


def _shares(evidence: AgentsEvidence, moved: list[float | None]) -> list[float]:
    """Return the bytes moved over those of the tokens from the host, for each sleep; nothing if one is not known."""
    sizes = [(sources.host or 0) * evidence.token_bytes for _, sources in _sources(evidence)]
    known = [(count, size) for count, size in zip(moved, sizes, strict=False) if count is not None]
    if not sizes or len(known) < len(sizes):
        return []
    return [count / size if size else 0.0 for count, size in known]


def _say(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"
