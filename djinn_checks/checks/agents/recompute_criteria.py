"""The rows about whether a KV cache was kept or computed again, whatever the server says of it: rounding, and time.

A prefill of the same tokens rounds otherwise than their decode did, so the log-probabilities of a recomputed session
are those of the twin that was computed anew. Where the two twins are equal to the last bit that shows nothing; there
the time to the first token may: a recomputed session takes as long as that twin. Each of the two rows is judged only if
the twins themselves are apart in it, and one that cannot tell does not decide where the other can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from djinn_checks.checks.agents.answer_distance import distance
from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.identity_criteria import NO_LOGPROBS
from djinn_checks.checks.agents.reply import Reply
from djinn_checks.checks.agents.sleeper import SleeperRun
from djinn_checks.outcome import Criterion, Row, Status, skip
from djinn_checks.units import format_seconds

_FIRST_TOKEN = Row("first_token_is_kept", "The first token comes as soon as from a kept KV cache", unit="")
_SLOWEST_BYTES_PER_S = 1e9
"""What any way between two memories carries."""
_APART = 2.0
"""Times the twins' own spread by which a recomputed session's first token must come later than a kept one's."""
_AS_SLOW = 0.8
"""Of the time to a recomputed session's first token: from here on a session's is as slow."""


def judge_recomputation(evidence: AgentsEvidence, *, again: str = "", is_counted: bool = False) -> list[Criterion]:
    """Return the two rows. Time is the coarser witness, and a busy machine's: it is asked where rounding is blind.

    Args:
        again: why answers were computed again, as they may be; rounding then accuses nobody.
        is_counted: whether the link was seen to carry the session's KV before the first token.
    """
    run = evidence.sleeper
    part = run.part if again else ()
    is_part = _is_nearer(run.slept[1:], part, run.hot[1:])
    rounding = _rounding(run, again, is_part=is_part)
    if is_part and rounding.status is Status.PASS:
        return _with_time(rounding, _first_token(evidence, part), is_counted=is_counted)
    if rounding.status is not Status.INCONCLUSIVE:
        told = "the rounding tells, and more finely"
        return [rounding, skip(_FIRST_TOKEN.name, _FIRST_TOKEN.title, unit="", reason=told)]
    first_token = _first_token(evidence, part)
    return [replace(rounding, required=first_token.status is Status.INCONCLUSIVE), first_token]


def _with_time(rounding: Criterion, first_token: Criterion, *, is_counted: bool) -> list[Criterion]:
    """Who computes prompts anew in the parts in which they came rounds like the twin that kept them: the link tells
    them apart, or time does."""
    if first_token.status is not Status.INCONCLUSIVE:
        return [rounding, first_token]
    if is_counted:
        return [rounding, replace(first_token, required=False)]
    missing = (
        "so are those of a session whose prompts were computed anew, one after the other; neither the link nor the "
        "time to the first token tells them apart here"
    )
    return [replace(rounding, observed=None, status=Status.INCONCLUSIVE, reason=missing), first_token]


def _is_nearer(slept: Sequence[Reply], part: Sequence[Reply], hot: Sequence[Reply]) -> bool:
    """Whether a session is nearer to the twin that kept its prompts than to the one that kept all, in later turns."""
    if not part:
        return False
    to_part, to_hot = distance(slept, part), distance(slept, hot)
    return to_part is not None and to_hot is not None and to_part < to_hot


def _rounding(run: SleeperRun, again: str, *, is_part: bool) -> Criterion:
    """A prefill of the same tokens rounds otherwise than their decode did."""
    kept = run.part if is_part else run.hot[1:]
    to_kept, to_cold = distance(run.slept[1:], kept), distance(run.slept[1:], run.cold)
    kept_to_cold, floor = distance(kept, run.cold), distance(run.again, run.hot)
    missing = NO_LOGPROBS
    nearer: str | None = None
    if to_kept is not None and to_cold is not None and kept_to_cold is not None and floor is not None:
        missing = (
            f"a recomputed session differs by {kept_to_cold:.3g} from a kept one, and a kept one by {floor:.3g} from "
            "itself, run again: they could not be told from each other here"
        )
        if kept_to_cold > floor:
            nearer = "kept" if to_kept < to_cold else "recomputed"
    if again and nearer == "recomputed":
        nearer, missing = (
            None,
            f"they are those of a session whose answers were computed anew, and so they were: {again}",
        )
    title = "The log-probabilities are those of a kept KV cache, not of a recomputed one"
    criterion = Row("rounding_is_kept", title, unit="").judge(
        nearer,
        "==",
        "kept",
        evidence="largest difference of a log-probability to the twin that never slept, and to the recomputed one",
        missing=missing,
        failed="they are nearer to those of the session that was computed anew",
    )
    if to_kept is None or to_cold is None:
        return criterion
    which = "; the former computed its last answer anew" if is_part else ""
    return replace(criterion, evidence=f"{criterion.evidence}: {to_kept:.3g} and {to_cold:.3g}{which}")


def _first_token(evidence: AgentsEvidence, part: Sequence[Reply]) -> Criterion:
    """The fastest of each side counts: others on a machine make an answer late, and nobody makes it early."""
    run = evidence.sleeper
    kept = [reply.wake_s for reply in part or (*run.hot[1:], *run.again[1:])]
    anew = [reply.wake_s for reply in run.cold]
    slept = [sleep.reply.wake_s for sleep in run.sleeps]
    row = _FIRST_TOKEN
    if not kept or not anew or not slept:
        return row.judge(None, "==", "kept", evidence="", missing="there is no twin's turn to compare with")
    spread = max(max(kept) - min(kept), max(anew) - min(anew))
    are_apart = min(anew) > max(kept) + _APART * spread
    move_s = max(evidence.kv_bytes(sleep.tokens) for sleep in run.sleeps) / _SLOWEST_BYTES_PER_S
    told = (
        f"fastest of each, by the client's clock: {format_seconds(min(slept))} after a sleep, "
        f"{format_seconds(min(kept))} kept, {format_seconds(min(anew))} computed anew"
    )
    nearer: str | None = None
    missing = "kept and recomputed twins' times are not apart under this load"
    if are_apart:
        missing = "it is later than a kept one's, and sooner than a recomputed one's: what does it wait for?"
        if min(slept) < (min(anew) + min(kept)) / 2:
            nearer = "kept"
        elif min(slept) >= _AS_SLOW * min(anew) and min(slept) > max(kept) + move_s:
            nearer = "recomputed"
    return row.judge(
        nearer,
        "==",
        "kept",
        evidence=told,
        missing=missing,
        failed="it takes as long as a session that is computed anew",
    )
