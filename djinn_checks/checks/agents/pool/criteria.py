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
from djinn_checks.checks.agents.pool.run import (
    BorderTrial,
    PoolRun,
    is_accounted,
    served_beyond,
    served_to_new,
    strangers,
)
from djinn_checks.checks.agents.pool.shortfall import judge_short, sources_of, why_again
from djinn_checks.checks.agents.pool.speed import judge_pool_moves
from djinn_checks.checks.agents.promptness_criteria import judge_wake
from djinn_checks.checks.agents.recompute_criteria import judge_recomputation, was_carried
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
_SHARED = "sessions share what is cached, whatever salt they have: a twin's copy may stand in for the sleeper's"
_AWAY = (
    "a twin that never slept was not served from the device: does the pool hold a session, and do all its turns go to "
    "one engine?"
)
_REFUSED = (
    "nothing is known to have pushed the session off the device, as the server refused what should have: {why}; let it "
    "take others' prompts, or empty its cache"
)
_NONE_CAME = "no token is said to have come from the host"
_ENGINES = (
    "{count} tokens were still there, and the server has {engines} engines: others' prompts may have gone to another "
    "one; give more pressure_tokens, or ask one engine"
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
        *judge_recomputation(evidence, again=why_again(evidence, pool), is_counted=was_carried(on_link)),
        *judge_sameness(evidence),
        judge_coherence(evidence),
        *judge_pool_moves(evidence, pool),
        judge_generated(evidence),
        judge_decode(evidence),
    ]


def _twins(evidence: AgentsEvidence, pool: PoolRun) -> Criterion:
    """That each session was itself alone is no claim of the server's: without it nothing can be compared."""
    run, block = evidence.sleeper, pool.block_tokens
    row = Row("twins_are_twins", "No session was served from another's blocks", unit="tokens")
    served, found = served_to_new(run), strangers(run, block or 1)
    all_replies = (*run.hot, *run.again, *run.cold, *run.part, *run.slept)
    is_open = block is None and not served and bool(found)
    names = " or ".join(map(str, POOLS[pool.kind].block_tokens))
    unsaid = f"{found} tokens of twins that never slept were computed again, and the server does not say of how many "
    return row.judge(
        found if is_accounted(all_replies) and not is_open else None,
        "==",
        0,
        evidence=f"{_BY_SERVER}, {len(all_replies)} turns: computed where a session is new, on the device where it "
        "never slept",
        missing=f"{unsaid}its blocks are ({names})" if is_open else pool.why_missing("prompt", "device", "host"),
        failed=_SHARED if served else _AWAY,
        instrument=True,
    )


def _left_device(evidence: AgentsEvidence, pool: PoolRun) -> Criterion:
    row = Row(
        "kv_left_device", "After others had the device, the session's tokens were not served from it", unit="tokens"
    )
    found = [sources.device or 0 for _, sources in sources_of(evidence)]
    how = ", ".join(
        f"by {sleep.by}" + (f" of {sleep.pressed_tokens:,} tokens" if sleep.pressed_tokens else "")
        for sleep in pool.sleeps
        if sleep.by
    )
    doubt = _why_unpushed(pool, found)
    return row.judge(
        None if doubt else max(found, default=None),
        "<=",
        0,
        evidence=f"{_BY_SERVER}; pushed out {how or 'by nothing'}; the pool holds {_say(pool.pool_tokens)} tokens",
        missing=doubt or pool.why_missing("prompt", "device", "host"),
        failed="they were still there",
    )


def _why_unpushed(pool: PoolRun, found: list[int]) -> str:
    """Return why it is not known that a session was pushed off the device; empty if it is."""
    if not all(sleep.by for sleep in pool.sleeps):
        return _REFUSED.format(why=pool.unpushed) if pool.unpushed else _UNPUSHED.format(needs=_needs(pool))
    missed = [count for count, sleep in zip(found, pool.sleeps, strict=False) if sleep.pressed_tokens and count]
    is_open = pool.engines > 1 and missed and max(missed) == max(found)
    return _ENGINES.format(count=max(missed), engines=pool.engines) if is_open else ""


def _needs(pool: PoolRun) -> str:
    return "VLLM_SERVER_DEV_MODE=1" if pool.kind == "vllm" else "a smaller pool"


def _from_host(evidence: AgentsEvidence, pool: PoolRun) -> Criterion:
    row = Row(
        "kv_from_host",
        "The session's tokens came back from outside the device, but for what its server leaves out",
        unit="tokens short",
    )
    none_came = all(sources.host == 0 for _, sources in sources_of(evidence))
    return judge_short(
        row,
        evidence,
        pool,
        told=f"{_BY_SERVER}; it keeps blocks of {_say(pool.block_tokens)} tokens",
        failed="none came from there: is offloading on?" if none_came else "they were lost, and computed again",
    )


def _fed_back(evidence: AgentsEvidence, pool: PoolRun) -> Criterion:
    """An answer's last token is not fed back, so it has no KV, but for a server that guessed it and was right: if one
    came from a cache, some answers that end so are held against some that do not. Informative where none came."""
    block, sleeps = pool.block_tokens, evidence.sleeper.sleeps
    found = max(0, served_beyond(evidence.sleeper)) if sources_of(evidence) else None
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
    told = f"{_BY_SERVER}, against the tokens that the session had; a paged cache keeps whole blocks"
    return judge_short(row, evidence, pool, told=told, failed="")


def _loaded(evidence: AgentsEvidence, pool: PoolRun) -> Criterion:
    row = Row("loads_counted", "The server counted the bytes that it loaded for the session", unit="times the KV")
    shares = _shares(evidence, [sleep.woken.load_bytes for sleep in pool.sleeps])
    return row.judge(
        min(shares, default=None),
        ">=",
        evidence.params.memory_share,
        evidence=f"the server's counter of loaded bytes; a token's KV is {format_bytes(evidence.token_bytes)}",
        missing=pool.why_missing("load_bytes", "prompt", "device", "host") if _all_came(evidence) else _NONE_CAME,
        failed="fewer bytes were loaded than the tokens have that are said to have come from the host",
    )


def _loaded_on_link(evidence: AgentsEvidence, pool: PoolRun) -> Criterion:
    row = Row("kv_in_on_link", "The KV's bytes went over the link, back to the device", unit="times the session's KV")
    link = evidence.link
    if link is None:
        return row.skip(evidence.why_no_link)
    return row.judge(
        evidence.share_carried("in", _sizes(evidence)),
        ">=",
        evidence.params.memory_share,
        evidence="PCIe counters of the GPU, calibrated with copies of known size; until the first token, less what "
        "they count of a link at rest; against the tokens that are said to have come from the host",
        missing=_why_no_share(evidence, pool),
        failed="fewer bytes were moved by then",
    )


def _why_no_share(evidence: AgentsEvidence, pool: PoolRun) -> str:
    carried = evidence.carried("in")
    if not carried or not all(part.is_all for part in carried):
        return evidence.why_not_counted
    return pool.why_missing("prompt", "device", "host") if _all_came(evidence) else _NONE_CAME


def _all_came(evidence: AgentsEvidence) -> bool:
    """Whether some tokens came from the host after every sleep of which the sources are known."""
    return all(sources.host for _, sources in sources_of(evidence))


def _stored_on_link(evidence: AgentsEvidence, pool: PoolRun) -> Criterion:
    """Informative: when a server with a pool writes a session to the host is its own affair."""
    row = Row("kv_out_on_link", "The KV's bytes went over the link, off the device", unit="times the session's KV",
              required=False)  # fmt: skip
    link, run = evidence.link, evidence.sleeper
    if link is None:
        return row.skip(evidence.why_no_link)
    carried, enough = link.carried("out", run.first.sent_s, pool.left_s), evidence.params.memory_share
    size = pool.whole_blocks(run.sleeps[0].tokens) * evidence.token_bytes
    return row.judge(
        carried.share_of(size, enough) if carried and size else None,
        ">=",
        enough,
        evidence="PCIe counters of the GPU, from the session's first request until others came: such a server writes "
        "at once, and not when a session goes idle",
        missing=evidence.why_not_counted,
    )


def _sizes(evidence: AgentsEvidence) -> list[float]:
    """Return the KV bytes of the tokens that came from the host after each sleep."""
    return [(sources.host or 0) * evidence.token_bytes for _, sources in sources_of(evidence)]


def _shares(evidence: AgentsEvidence, moved: list[float | None]) -> list[float]:
    """Return the bytes moved over those of the tokens from the host, for each sleep; nothing if one is not known, or
    none came."""
    sizes = _sizes(evidence)
    known = [(count, size) for count, size in zip(moved, sizes, strict=False) if count is not None]
    if not all(sizes) or len(known) < len(sizes):
        return []
    return [count / size for count, size in known]


def _say(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"
