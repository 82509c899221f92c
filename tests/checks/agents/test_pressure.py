"""Who sent a session out is seen from outside: by its place being gone before the timer, and by nobody's word."""

from __future__ import annotations

import pytest

from djinn_checks.checks.agents.client import Reply
from djinn_checks.checks.agents.crowd import CrowdRun, StateSample
from djinn_checks.checks.agents.pressure import gather_pressure
from djinn_checks.checks.agents.scripts import AgentScript
from djinn_checks.measurements.agents import PressureFacts
from djinn_checks.params import AgentsParams
from djinn_checks.units import MB
from tests.checks.agents.made_evidence import make_evidence, make_reference

KV = 100 * MB
"""Of a session of 101 tokens whose last one has not been fed back."""
ENDED_S = 30.0


def found(left_after_s: float | None, *, adapter: str = "idle", both_s: float = 30.0) -> PressureFacts:
    """Return what is seen of two agents on a budget for two, whose turns end at 2 s.

    Args:
        left_after_s: idle seconds after which the second leaves; None: it stays.
        both_s: until when the first is there.
    """
    script = AgentScript(prompt=(0,) * 99, follow_ups=((0,),), code_word="", code_ids=(7,))
    turns = (Reply(ids=(1,), sent_s=1.0, token_at_s=(2.0,)), Reply(ids=(1,), sent_s=25.0, token_at_s=(26.0,)))
    looks = []
    for step in range(300):
        at = step / 10
        gone = left_after_s is not None and 2 + left_after_s <= at < 25
        states = {"agent-0": "IDLE" if at < both_s else "SWAPPED", "agent-1": "SWAPPED" if gone else "IDLE"}
        looks.append(StateSample(asked_s=at, answered_s=at, states=states))
    crowd = CrowdRun(
        scripts=(script, script), replies=(turns, turns), twins=(), errors=(), samples=tuple(looks), started_s=0.0,
        ended_s=ENDED_S,
    )  # fmt: skip
    params = AgentsParams.create(adapter=adapter, idle_s=10.0, sleep_s=20.0, agents=2, kv_device_gb=2 * KV / 1e9)
    facts = gather_pressure(make_evidence(params=params, crowd=crowd, reference=make_reference(KV)), crowd)
    assert facts is not None
    return facts


@pytest.mark.parametrize(
    ("left_after_s", "adapter", "expected"),
    [(4.0, "idle", (1, 0, 0)), (10.0, "idle", (0, 1, 0)), (0.1, "signal", (0, 0, 1)), (None, "idle", (0, 0, 0))],
    ids=["the budget", "the timer", "a word", "nobody"],
)
def test_what_sent_a_session_out_is_told_by_when_it_was_gone(
    left_after_s: float | None, adapter: str, expected: tuple[int, int, int]
) -> None:
    facts = found(left_after_s, adapter=adapter)
    assert (facts["left_for_room"], facts["left_by_timer"], facts["left_when_told"]) == expected


def test_a_device_is_full_while_its_sessions_have_nine_tenths_of_the_budget() -> None:
    assert found(None)["near_budget"] == 1.0
    assert found(3.0)["near_budget"] < 0.4


def test_a_server_that_lists_no_sessions_leaves_it_unknown() -> None:
    crowd = CrowdRun(
        scripts=(), replies=(), twins=(), errors=(), samples=(), started_s=0.0, ended_s=1.0
    )  # fmt: skip
    assert gather_pressure(make_evidence(crowd=crowd), crowd) is None
