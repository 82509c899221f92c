"""The rows about whether a KV cache was kept or computed again, whatever the server says of it: rounding, and time.

A prefill of the same tokens rounds otherwise than their decode did, so the log-probabilities of a recomputed session
are those of the twin that was computed anew. Where the two twins are equal to the last bit that shows nothing; there
the time to the first token may: a recomputed session takes as long as that twin. Each of the two rows is judged only if
the twins themselves are apart in it, and one that cannot tell does not decide where the other can.

A session that is computed anew in the very parts in which it came rounds as a kept one does, and is late; so is an
honest one whose way back is slow. Time alone accuses nobody, and nobody passes against it whose bytes no link counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
_ENOUGH_ORDERS = 15
"""In how many ways the twins' times can be told into kept and recomputed ones: 15 of four and two, 6 of two and two.
Of times that are drawn from one distribution, whichever, at most one way has all the former before all the latter."""
_FEW_APART_S = 0.1
"""By how much fewer times than these have to be apart: longer than a busy machine makes a process wait, as a rule."""
_AS_SLOW = 0.8
"""Of the time to a recomputed session's first token: from here on a session's is as slow."""
_AS_LATE = (
    "as late as computed anew: a slow way back, or computed again in the same parts; the counters of a GPU's link tell "
    "them apart, if the server is on this machine"
)

_PUT_OFF = (
    "no turn after a sleep was answered at once (HTTP 429 or 503), so nobody knows what was computed meanwhile; ask "
    "when the server has room"
)


@dataclass(frozen=True, kw_only=True)
class _FirstTokens:
    """Seconds from each request to its first token. The fastest of each side counts: others on a machine make an answer
    late, and nobody makes it early."""

    slept: Sequence[float]
    own: Sequence[float]
    """The same without what the machine kept the server from answering."""
    kept: Sequence[float]
    anew: Sequence[float]
    move_s: float
    """What the longest session may take over any way between two memories."""

    @property
    def is_known(self) -> bool:
        return bool(self.slept and self.kept and self.anew)

    @property
    def are_apart(self) -> bool:
        """Whether a kept session's are told from a recomputed one's, and not by luck."""
        spread = max(max(self.kept) - min(self.kept), max(self.anew) - min(self.anew))
        gap = min(self.anew) - max(self.kept)
        is_enough = math.comb(len(self.kept) + len(self.anew), len(self.anew)) >= _ENOUGH_ORDERS
        return gap > _APART * spread and (is_enough or gap > _FEW_APART_S)

    @property
    def is_soon(self) -> bool:
        return min(self.slept) < (min(self.anew) + min(self.kept)) / 2

    @property
    def is_late(self) -> bool:
        """Whether the twins are apart, and a session after a sleep is as slow as the one that was computed anew."""
        if not self.is_known or not self.are_apart or self.is_soon:
            return False
        return min(self.own) >= _AS_SLOW * min(self.anew) and min(self.own) > max(self.kept) + self.move_s

    def __str__(self) -> str:
        slept, kept, anew = (format_seconds(min(times)) for times in (self.slept, self.kept, self.anew))
        return f"fastest of each, by the client's clock: {slept} after a sleep, {kept} kept, {anew} computed anew"


def judge_recomputation(
    evidence: AgentsEvidence, *, again: str = "", is_counted: bool | None = None
) -> list[Criterion]:
    """Return the two rows. Time is the coarser witness, and a busy machine's: it is asked where rounding is blind.

    Args:
        again: why answers were computed again, as they may be; rounding then accuses nobody.
        is_counted: whether the link was seen to carry the session's KV before the first token; None if nobody looked.
    """
    run = evidence.sleeper
    part = run.part if again else ()
    is_part = _is_nearer(run.slept[1:], part, run.hot[1:])
    rounding = _rounding(run, again, is_part=is_part)
    first_token = _first_token(evidence, part, is_counted)
    if is_part and rounding.status is Status.PASS:
        return _with_time(rounding, first_token, is_counted=is_counted)
    why = _AS_LATE if _times(evidence, part).is_late else _PUT_OFF if _is_put_off(run) else ""
    if rounding.status is Status.PASS and why and not is_counted:
        return [rounding, replace(first_token, observed=None, status=Status.INCONCLUSIVE, reason=why)]
    if rounding.status is not Status.INCONCLUSIVE:
        told = "the rounding tells, and more finely"
        return [rounding, skip(_FIRST_TOKEN.name, _FIRST_TOKEN.title, unit="", reason=told)]
    return [replace(rounding, required=first_token.status is Status.INCONCLUSIVE), first_token]


def _is_put_off(run: SleeperRun) -> bool:
    """Whether the server answered no turn after a sleep at the first request."""
    return bool(run.sleeps) and all(sleep.reply.refusals for sleep in run.sleeps)


def was_carried(on_link: Criterion) -> bool | None:
    """Return whether the link carried a session's KV back, by the row about it; None if it was not counted."""
    return {Status.PASS: True, Status.FAIL: False}.get(on_link.status)


def _with_time(rounding: Criterion, first_token: Criterion, *, is_counted: bool | None) -> list[Criterion]:
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


def _times(evidence: AgentsEvidence, part: Sequence[Reply]) -> _FirstTokens:
    run = evidence.sleeper
    sizes = [evidence.kv_bytes(sleep.tokens) for sleep in run.sleeps]
    return _FirstTokens(
        slept=[sleep.reply.felt_wake_s for sleep in run.sleeps],
        own=[sleep.reply.felt_wake_s - evidence.stalled_s(sleep) for sleep in run.sleeps],
        kept=[reply.wake_s for reply in part or (*run.hot[1:], *run.again[1:])],
        anew=[reply.wake_s for reply in run.cold],
        move_s=max(sizes, default=0) / _SLOWEST_BYTES_PER_S,
    )


def _first_token(evidence: AgentsEvidence, part: Sequence[Reply], is_counted: bool | None) -> Criterion:
    row, times = _FIRST_TOKEN, _times(evidence, part)
    if not times.is_known:
        return row.judge(None, "==", "kept", evidence="", missing="there is no twin's turn to compare with")
    nearer: str | None = None
    missing = "kept and recomputed twins' times are not apart under this load"
    if times.are_apart:
        missing = "it is later than a kept one's, and sooner than a recomputed one's: what does it wait for?"
        if times.is_soon:
            nearer = "kept"
        elif times.is_late:
            nearer, missing = ("recomputed" if _has_no_slow_way(evidence, times, is_counted) else None), _AS_LATE
    return row.judge(
        nearer,
        "==",
        "kept",
        evidence=str(times),
        missing=missing,
        failed="it takes as long as a session that is computed anew",
    )


def _has_no_slow_way(evidence: AgentsEvidence, times: _FirstTokens, is_counted: bool | None) -> bool:
    """Whether a late session is known not to have waited for its bytes: the link carried fewer, or by the server's own
    records of its sessions their restores took less than half of the delay."""
    if is_counted is not None:
        return not is_counted
    restore_s = evidence.unloaded_restore_s()
    return restore_s is not None and restore_s < (min(times.slept) - min(times.kept)) / 2
