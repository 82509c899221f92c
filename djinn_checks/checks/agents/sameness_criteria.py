"""The rows about agents of a crowd saying what their twins say alone: in words, and in log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_low

from djinn_checks.checks.agents.answer_distance import differing_tokens
from djinn_checks.checks.agents.connect import ADAPTERS
from djinn_checks.checks.agents.crowd import CrowdRun
from djinn_checks.checks.agents.crowd_distance import (
    GROSS,
    TurnDistance,
    judged_turns,
    limit,
    may_be_rounding,
    noise,
    taken_for_own,
    why_unsteady,
)
from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.outcome import Criterion, Row

_BLIND = 0.5
"""Share of other agents' answers that pass as one's own: from here on most mix-ups would."""


def judge_said(evidence: AgentsEvidence, crowd: CrowdRun, found: Sequence[TurnDistance]) -> list[Criterion]:
    """Return the two rows, of turns of known distance from their twins'."""
    return [_texts(evidence, crowd, found), _logprobs(evidence, crowd, found)]


def _texts(evidence: AgentsEvidence, crowd: CrowdRun, found: Sequence[TurnDistance]) -> Criterion:
    """A server of sessions says the same token by token. One with a pool, or of which nothing is known, may compute in
    batches or other parts, and is held to what that may round."""
    differ = [
        number
        for number, replies in enumerate(crowd.replies)
        if differing_tokens(replies, crowd.twin_of(number)[: len(replies)])
    ]
    how, may_be_apart, doubt = "the same turns taken alone, without a pause, token by token", None, ""
    if evidence.pool is not None or not ADAPTERS[evidence.params.adapter].has_sessions:
        wide = may_be_rounding(found)
        doubt = _why_doubtful(found, wide) or why_unsteady(evidence.sleeper, found)
        far = {turn.agent for turn in found if turn.nats is not None and turn.nats > wide}
        if all(turn.nats is not None for turn in found):
            near = len({*differ} - far)
            how = f"the same turns taken alone; {near} said another token where its twin was not sure by {GROSS} nats"
            may_be_apart = GROSS if differ else None
        unknown = {turn.agent for turn in found if turn.nats is None and not turn.is_same}
        differ = sorted(far if doubt else far | unknown)
    open_still = "" if differ else doubt or _why_unfinished(evidence, crowd) or _why_blind(crowd, may_be_apart)
    row = Row("crowd_texts_equal_twins", "Every agent said what its twin says alone", unit="agents")
    return row.judge(
        None if open_still else len(differ),
        "==",
        0,
        evidence=how,
        missing=open_still,
        failed=f"agents {_name(differ)}",
    )


def _why_doubtful(found: Sequence[TurnDistance], wide: float) -> str:
    """Return why nothing is known of turns that are far from their twins', but no further than so many nats, as turns
    are that nobody restored; empty if there are none."""
    far = [turn for turn in found if turn.nats is not None and GROSS < turn.nats <= wide]
    if not far:
        return ""
    most = max(turn.nats or 0.0 for turn in far)
    return (
        f"agents {_name(sorted({turn.agent for turn in far}))} are up to {most:.3g} nats from their "
        f"twins, and turns that were never restored are far from theirs, too: rounding by up to {wide:.3g}, or is the "
        "server wrong in these as well?"
    )


def _why_unfinished(evidence: AgentsEvidence, crowd: CrowdRun) -> str:
    """Return why not all is known that was to be said; empty if it was said."""
    unfinished = [number for number, replies in enumerate(crowd.replies) if len(replies) < evidence.params.turns]
    return f"of agents {_name(unfinished)} not every turn was answered, as 'crowd_answered' says" if unfinished else ""


def _name(agents: Sequence[int]) -> str:
    return ", ".join(map(str, agents[:8]))


def _why_blind(crowd: CrowdRun, most: float | None) -> str:
    """Return why a crowd whose answers are as near to the twins' as that shows nothing; empty if it does."""
    share = taken_for_own(crowd, most)
    if share is None or share < _BLIND:
        return ""
    return (
        f"{share:.0%} of other agents' answers would pass as an agent's own: this model, or this server's rounding, "
        "hardly tells them apart; take a model that is surer of its words"
    )


def _logprobs(evidence: AgentsEvidence, crowd: CrowdRun, found: Sequence[TurnDistance]) -> Criterion:
    of_noise = noise(evidence, found)
    most = limit(of_noise) if of_noise is not None else None
    later = judged_turns(found)
    worst = max(later, key=lambda turn: turn.nats or 0.0, default=None)
    row = Row(
        "crowd_logprobs_equal_twins",
        "After every pause an agent's log-probabilities are its twin's, but for what rounding does to turns that were "
        "never restored",
        unit="nats",
    )
    nats, wide, open_still = worst.nats or 0.0 if worst else 0.0, may_be_rounding(found), ""
    if worst is not None and most is not None and nats <= most:
        open_still = _why_blind(crowd, most)
    elif nats <= wide:
        open_still = _why_doubtful(found, wide)
    disturbed = sum(turn.is_disturbed for turn in later)
    besides = f", {disturbed} of them disturbed by a second client" if disturbed else ""
    return row.judge(
        worst.nats if worst and most is not None and not open_still else None,
        "<=",
        most if most is not None else 0.0,
        evidence=f"largest difference over {len(later)} turns{besides}, median {_median(later)}; over first turns, "
        f"never restored, {_say(of_noise)}, median {_median([turn for turn in found if not turn.may_be_restored])}",
        missing=open_still
        or "the server gives no log-probabilities, or no turn was left to compare, or all prompts begin alike and none "
        "tells what rounding does",
        failed=f"agent {worst.agent}, turn {worst.turn + 1}" if worst else "",
    )


def _median(turns: Sequence[TurnDistance]) -> str:
    known = [turn.nats for turn in turns if turn.nats is not None]
    return _say(median_low(known) if known else None)


def _say(nats: float | None) -> str:
    return "unknown" if nats is None else f"{nats:.3g}"
