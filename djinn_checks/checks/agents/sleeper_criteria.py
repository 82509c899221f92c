"""The rows about one agent that sleeps: four proofs, none of which stands for another.

    its KV left the device        memory read from outside fell; swaps counted; bytes counted on the link
    it came back                  memory rose; restores counted; the digests of its bytes are equal
    it was not computed again     prompt tokens counted; the rounding of a decode, not of a prefill
    the agent is who it was       text and log-probabilities are those of the twin that never slept

What a server says about itself is evidence beside what is measured, and never in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest

from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.identity_criteria import (
    judge_coherence,
    judge_generated,
    judge_sameness,
    judge_speaker,
)
from djinn_checks.checks.agents.memory import UNREAD
from djinn_checks.checks.agents.promptness_criteria import judge_promptness
from djinn_checks.checks.agents.recompute_criteria import judge_recomputation, was_carried
from djinn_checks.checks.agents.reply import SessionRecord, tell_refusals
from djinn_checks.checks.agents.sleeper import Sleep
from djinn_checks.checks.agents.speed_criteria import judge_decode, judge_moves
from djinn_checks.outcome import Criterion, Row
from djinn_checks.units import format_bytes

_WHEN = {"out": "until the sleep's last third", "in": "until the first token after the sleep"}
"""When the bytes that go each way are counted."""
_SURVIVES = Row("survives_sleep", "The agent's turns before and after every sleep were answered", unit="sleeps")
_NOTHING_AGAIN = "Of what the session had, nothing was computed again"
_NOT_SAID = "the server does not say which prompt tokens it computed"
_LARGEST_BLOCK = 256
"""Tokens that a server may keep together, as LMCache does."""
_SWAPS = Row("swaps_counted", "The server counted a swap-out for every sleep", unit="moves")
_RESTORES = Row("restores_counted", "The server counted a restore for every sleep", unit="moves")
_ON_LINK = {
    "out": Row("kv_out_on_link", "The KV's bytes went over the link, off the device", unit="times the session's KV"),
    "in": Row("kv_in_on_link", "The KV's bytes went over the link, back to the device", unit="times the session's KV"),
}
_NO_DIGEST = "the server takes no digest of what it moves: a change that does not change the text would not be seen"
_STILL_TAKEN = "its memory is still taken: the KV is still there, or its place is kept and never given back"
_OWN_HEAP = (
    "; on a CPU the process's resident memory stands in for the device's, so memory for KV that sleeps counts as the "
    "device's unless it was taken at the start, or lies outside of the process"
)
_LEFT_AGAIN = "the session had left again before the server was asked about its restore: is the machine busy?"


def judge_sleeper(evidence: AgentsEvidence) -> list[Criterion]:
    """Return the rows about the sleeper."""
    is_counted = was_carried(_on_link(evidence, "in"))
    return [
        judge_survival(evidence),
        judge_speaker(evidence),
        *_left(evidence),
        *_came_back(evidence),
        *judge_promptness(evidence),
        _not_recomputed(evidence),
        *judge_recomputation(evidence, is_counted=is_counted),
        *judge_sameness(evidence),
        judge_coherence(evidence),
        *judge_moves(evidence),
        judge_generated(evidence),
        judge_decode(evidence),
    ]


def judge_lost(sleeps: int, reason: str) -> Criterion:
    """Return the one criterion about a sleeper that could not go on."""
    return _SURVIVES.judge(0, "==", sleeps, evidence="the server's answers", failed=reason)


def judge_survival(evidence: AgentsEvidence) -> Criterion:
    """Return the row about every sleep having been answered; it says how many there were, and so what was not tried."""
    sleep_s = min(sleep.woken_s - sleep.told_s for sleep in evidence.sleeper.sleeps)
    is_lost, run = evidence.is_alive is False, evidence.sleeper
    refusals = tell_refusals([*run.slept, *run.hot, *run.again, *run.cold, *run.part])
    return _SURVIVES.judge(
        0 if is_lost else len(evidence.sleeper.sleeps),
        "==",
        evidence.params.sleeps,
        evidence=f"sleeps of {sleep_s:.1f} s and more, an answer after each{_untried(evidence)}{refusals}",
        failed="the server's process has ended" if is_lost else "",
    )


def _untried(evidence: AgentsEvidence) -> str:
    return "; what a session's second sleep does was not tried" if evidence.params.sleeps == 1 else ""


def _left(evidence: AgentsEvidence) -> list[Criterion]:
    asleep = evidence.sleeper.sleeps[-1].asleep
    return [
        _left_device(evidence),
        _counted(evidence, _SWAPS, lambda record: record.swaps, asleep),
        _on_link(evidence, "out"),
    ]


def _came_back(evidence: AgentsEvidence) -> list[Criterion]:
    after = evidence.sleeper.sleeps[-1].after
    return [
        _returned(evidence),
        _counted(evidence, _RESTORES, lambda record: record.restores, after),
        _on_link(evidence, "in"),
        _bytes_equal(evidence),
        _digest(evidence),
    ]


def _left_device(evidence: AgentsEvidence) -> Criterion:
    memory, share, sleeps = evidence.session_memory, evidence.params.memory_share, evidence.sleeper.sleeps
    falls = [(memory.left(sleep) if memory else None, evidence.kv_bytes(sleep.tokens)) for sleep in sleeps]
    found = [fall.share(size, share, evidence.device.type) for fall, size in falls if fall]
    worst = min((value for value, _ in found if value is not None), default=None)
    doubts = [why for value, why in found if value is None]
    is_known = len(found) == len(sleeps) and (not doubts or (worst is not None and worst < share))
    row = Row(
        "kv_left_device",
        "While the agent slept, its KV's bytes were gone from the device's memory",
        unit="times the session's KV",
    )
    return row.judge(
        worst if is_known else None,
        ">=",
        share,
        evidence=f"{_memory_evidence(evidence)}, held against what was there before it came and after it was closed",
        missing=evidence.memory_reason or next(iter(doubts), UNREAD),
        failed=_STILL_TAKEN + (_OWN_HEAP if evidence.device.type == "cpu" else ""),
    )


def _returned(evidence: AgentsEvidence) -> Criterion:
    memory, sleeps = evidence.session_memory, evidence.sleeper.sleeps
    rises = [(memory.came_back(sleep) if memory else None, evidence.kv_bytes(sleep.tokens)) for sleep in sleeps]
    shares = [rise / size for rise, size in rises if rise is not None]
    row = Row(
        "kv_returned",
        "After the agent woke, its KV's bytes were in the device's memory again",
        unit="times the session's KV",
    )
    return row.judge(
        min(shares) if len(shares) == len(sleeps) and not evidence.why_unresolved else None,
        ">=",
        evidence.params.memory_share,
        evidence=_memory_evidence(evidence),
        missing=evidence.memory_reason or evidence.why_unresolved or UNREAD,
        failed="its memory is not there; is the text computed from something else?",
    )


def _memory_evidence(evidence: AgentsEvidence) -> str:
    source = evidence.memory.source if evidence.memory else "no instrument"
    return f"{source}; the session's KV is {format_bytes(evidence.kv_bytes(evidence.sleeper.sleeps[0].tokens))}"


def _counted(
    evidence: AgentsEvidence, row: Row, get: Callable[[SessionRecord], int | None], record: SessionRecord | None
) -> Criterion:
    opened = evidence.sleeper.opened
    counted = get(record) if record else None
    before = (get(opened) if opened else None) or 0
    return row.judge(
        None if counted is None else counted - before,
        "==",
        len(evidence.sleeper.sleeps),
        evidence="the server's record of the session, before its first turn and after the last sleep",
        missing=f"a server of kind {evidence.params.adapter!r} says nothing about it",
    )


def _on_link(evidence: AgentsEvidence, direction: str) -> Criterion:
    row = _ON_LINK[direction]
    if evidence.link is None:
        return row.skip(evidence.why_no_link)
    sizes = [evidence.kv_bytes(sleep.tokens) for sleep in evidence.sleeper.sleeps]
    return row.judge(
        evidence.share_carried(direction, sizes),
        ">=",
        evidence.params.memory_share,
        evidence=f"PCIe counters of the GPU, calibrated with copies of known size; {_WHEN[direction]}, less what "
        "they count of a link at rest",
        missing=evidence.why_not_counted,
        failed="fewer bytes were moved by then than the session has",
    )


def _bytes_equal(evidence: AgentsEvidence) -> Criterion:
    records = [sleep.back for sleep in evidence.sleeper.sleeps if sleep.back]
    moved = [
        (record.swapped_bytes, record.restored_bytes)
        for record in records
        if None not in (record.swapped_bytes, record.restored_bytes)
    ]
    row = Row("bytes_equal", "As many bytes came back as had left", unit="sleeps that differ")
    return row.judge(
        sum(out != back for out, back in moved) if len(moved) == len(evidence.sleeper.sleeps) else None,
        "==",
        0,
        evidence="the server's record of the session",
        missing=_unsaid(evidence, f"a server of kind {evidence.params.adapter!r} does not say how many"),
    )


def _digest(evidence: AgentsEvidence) -> Criterion:
    records = [sleep.back for sleep in evidence.sleeper.sleeps if sleep.back]
    pairs = [(record.digest_out, record.digest_in) for record in records if record.digest_out and record.digest_in]
    row = Row("digest_equal", "The KV's bytes came back as they left", unit="sleeps that differ")
    return row.judge(
        sum(out != back for out, back in pairs) if len(pairs) == len(evidence.sleeper.sleeps) else None,
        "==",
        0,
        evidence="digests of the KV on the device before it left and after it came back, by the server",
        missing=_unsaid(evidence, _NO_DIGEST),
    )


def _unsaid(evidence: AgentsEvidence, otherwise: str) -> str:
    """Return why the server's records of a restore are not known."""
    is_late = any(sleep.after and not sleep.back for sleep in evidence.sleeper.sleeps)
    return _LEFT_AGAIN if is_late else otherwise


def _not_recomputed(evidence: AgentsEvidence) -> Criterion:
    """What a twin that never slept lacked in the same turn, a part of a block or what a text's tokens became, is no
    loss."""
    run, row = evidence.sleeper, Row("prefill_counted", _NOTHING_AGAIN, unit="tokens")
    twins = [reply.cached_tokens for reply in run.hot[1:]]
    is_said = twins.count(None) == len(twins) or any(twins) or any(sleep.reply.cached_tokens for sleep in run.sleeps)
    found = [_short(sleep, twin) for sleep, twin in zip_longest(run.sleeps, twins[: len(run.sleeps)])]
    known = [short for short in found if short is not None]
    return row.judge(
        sum(known) if is_said and len(known) == len(found) else None,
        "==",
        0,
        evidence="cached_tokens in the server's usage, against the tokens that the session had",
        missing=_NOT_SAID if is_said else "the server says 0 also of a session that never slept",
    )


def _short(sleep: Sleep, twin: int | None) -> int | None:
    """Return the tokens that were computed again beyond what its twin lacked; None if the server does not say."""
    if sleep.reply.cached_tokens is None:
        return None
    had = sleep.tokens - 1
    own = min(max(0, had - twin), _LARGEST_BLOCK) if twin else 0
    return max(0, had - sleep.reply.cached_tokens - own)
