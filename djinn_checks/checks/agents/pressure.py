"""Whether a crowd fills its budget, and who sent sessions out: the budget, a timer, or a word.

Seen from outside, in the server's list of sessions ten times a second and by the client's clock. A session that is off
the device before it has been idle for as long as the server's timer asks, and that nobody told to sleep, has left
because another needed its place.
"""

from __future__ import annotations

from collections import Counter

from djinn_checks.checks.agents.crowd import CrowdRun, StateSample
from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.reply import Reply
from djinn_checks.checks.agents.scripts import session_of
from djinn_checks.measurements.agents import PressureFacts
from djinn_checks.units import GB

NEAR = 0.9
"""Of the budget: so much is a full device, as a session less is all that has no place."""
_HELD = ("IDLE", "ACTIVE", "SWAPPING_OUT", "SWAPPING_IN")
_GONE = ("SWAPPING_OUT", "SWAPPED")
_BLUR_S = 0.2
"""Two looks: how much later than it happens a session's leaving may be seen."""


def gather_pressure(evidence: AgentsEvidence, crowd: CrowdRun) -> PressureFacts | None:
    """Return how full the device was and who sent sessions out; None if the server does not list its sessions."""
    if not crowd.samples:
        return None
    shares = [_held_bytes(evidence, crowd, look) / (evidence.params.kv_device_gb * GB) for look in crowd.samples]
    left = Counter(reason for number in range(len(crowd.scripts)) for reason in _departures(evidence, crowd, number))
    return {
        "looks": len(shares),
        "near_budget": sum(share >= NEAR for share in shares) / len(shares),
        "median_of_budget": sorted(shares)[len(shares) // 2],
        "left_for_room": left["room"],
        "left_by_timer": left["timer"],
        "left_when_told": left["told"],
    }


def _held_bytes(evidence: AgentsEvidence, crowd: CrowdRun, look: StateSample) -> int:
    """Return the KV of the sessions on the device, each as long as its turns had made it by then."""
    held = (number for number in range(len(crowd.scripts)) if look.states.get(session_of(number)) in _HELD)
    return sum(evidence.kv_bytes(_tokens_at(crowd, number, look.answered_s)) for number in held)


def _tokens_at(crowd: CrowdRun, number: int, at_s: float) -> int:
    script = crowd.scripts[number]
    begun = [reply for reply in crowd.replies[number] if reply.sent_s <= at_s]
    said = sum(sum(token_s <= at_s for token_s in reply.token_at_s) for reply in begun)
    return len(script.prompt) + sum(map(len, script.follow_ups[: max(len(begun) - 1, 0)])) + said


def _departures(evidence: AgentsEvidence, crowd: CrowdRun, number: int) -> list[str]:
    """Return why a session left the device, after each of its turns after which it was seen to leave."""
    replies, reasons = crowd.replies[number], []
    for place, reply in enumerate(replies):
        until_s = replies[place + 1].sent_s if place + 1 < len(replies) else crowd.ended_s
        left_s = _seen_to_leave(crowd, number, reply, until_s)
        if left_s is None:
            continue
        if evidence.params.adapter in ("signal", "slot") and place + 1 < len(replies):
            reasons.append("told")
        else:
            is_early = left_s - reply.end_s < evidence.params.idle_s - _BLUR_S
            reasons.append("room" if is_early else "timer")
    return reasons


def _seen_to_leave(crowd: CrowdRun, number: int, reply: Reply, until_s: float) -> float | None:
    name = session_of(number)
    return next(
        (
            look.answered_s
            for look in crowd.samples
            if reply.end_s < look.asked_s and look.answered_s <= until_s and look.states.get(name) in _GONE
        ),
        None,
    )
