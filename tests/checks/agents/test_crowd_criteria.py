"""Many agents share a device if its memory says so from outside, whatever the server's list and counts say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from djinn_checks.checks.agents.crowd import CrowdRun, StateSample
from djinn_checks.checks.agents.crowd_criteria import _never_while_decoding, judge_crowd
from djinn_checks.checks.agents.reply import Reply
from djinn_checks.checks.agents.scripts import AgentScript
from djinn_checks.checks.agents.session_list import UNSAID
from djinn_checks.instruments.server_memory import MemorySeries
from djinn_checks.outcome import Criterion, Status
from djinn_checks.params import AgentsParams
from djinn_checks.units import MB
from tests.checks.agents.made_evidence import make_evidence, make_reference

AGENTS, KV = 8, 100 * MB
"""KV of each, bytes, at 101 tokens whose last one has not been fed back."""
WEIGHTS = 3000 * MB
STARTED_S, ENDED_S = 10.0, 20.0


def judged(
    growth: float, *, device: str = "cuda", agents: int = AGENTS, memory: bool = True, until_s: float = ENDED_S + 1
) -> Criterion:
    """Judge agents on a budget for two of them, while the device's memory is higher by `growth` bytes."""
    times = [at for at in np.arange(9, 21, 0.02).tolist() if at < until_s]
    readings = [WEIGHTS + int(growth) * (12 < at < 15) for at in times]
    reply = Reply(ids=(1,), sent_s=STARTED_S, token_at_s=(STARTED_S + 1,))
    script = AgentScript(prompt=(0,) * 99, follow_ups=((0,),), code_word="", code_ids=(7,))
    crowd = CrowdRun(
        scripts=(script,) * agents, replies=((reply,),) * agents, twins=((reply,),) * agents, errors=(), samples=(),
        started_s=STARTED_S, ended_s=ENDED_S, swaps=AGENTS, restores=AGENTS,
    )  # fmt: skip
    evidence = make_evidence(
        params=AgentsParams.create(agents=agents, kv_device_gb=2 * KV / 1e9),
        device=torch.device(device),
        crowd=crowd,
        memory=MemorySeries("made", times, readings) if memory else None,
        memory_reason="" if memory else "the server is somewhere else",
        reference=make_reference(KV),
    )
    return {row.name: row for row in judge_crowd(evidence)}["crowd_within_budget"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_agents_that_take_turns_on_the_device_pass(device: str) -> None:
    row = judged(2 * KV, device=device)
    assert row.required
    assert row.status is Status.PASS
    assert row.observed == pytest.approx(1.0)


@pytest.mark.parametrize(("device", "sessions"), [("cpu", 8), ("cpu", 4), ("cuda", 8), ("cuda", 3)])
def test_agents_that_stay_there_fail_though_all_was_counted(device: str, sessions: int) -> None:
    row = judged(sessions * KV, device=device)
    assert row.status is Status.FAIL
    assert "still there" in row.reason


@pytest.mark.parametrize(("device", "allowed"), [("cpu", 8 * MB), ("cuda", 32 * MB)])
def test_memory_moves_by_some_megabytes_of_its_own_accord(device: str, allowed: float) -> None:
    limit = 1.1 * 2 * KV + allowed
    assert judged(limit - MB, device=device).status is Status.PASS
    assert judged(limit + MB, device=device).status is Status.FAIL


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"memory": False}, "somewhere else"),
        ({"agents": 2}, "too little to show"),
        ({"until_s": STARTED_S}, "from before the crowd came until it left"),
        ({"until_s": ENDED_S - 3}, "from before the crowd came until it left"),
    ],
)
def test_memory_that_was_not_read_all_the_while_or_cannot_tell_leaves_it_open(odd: dict[str, Any], reason: str) -> None:
    row = judged(0, **odd)
    assert row.status is Status.INCONCLUSIVE
    assert reason in row.reason


def listed(*states: str) -> dict[str, Criterion]:
    """Judge agents of which the server says such states in the middle of their decodes, one look for each."""
    reply = Reply(ids=(1, 1), sent_s=STARTED_S, token_at_s=(STARTED_S + 1, STARTED_S + 9))
    script = AgentScript(prompt=(0,) * 99, follow_ups=((0,),), code_word="", code_ids=(7,))
    looks = [
        StateSample(asked_s=STARTED_S + 2, answered_s=STARTED_S + 3, states={"agent-0": state, "others": "odd"})
        for state in states
    ]
    crowd = CrowdRun(
        scripts=(script,), replies=((reply,),), twins=((reply,),), errors=(), samples=tuple(looks),
        started_s=STARTED_S, ended_s=ENDED_S,
    )  # fmt: skip
    evidence = make_evidence(params=AgentsParams.create(agents=1, kv_device_gb=2 * KV / 1e9), crowd=crowd)
    return {row.name: row for row in judge_crowd(evidence)}


@pytest.mark.parametrize(
    ("states", "told"),
    [(("ACTIVE", "hot", "cold"), "says of sessions that they are cold, hot"), ((UNSAID,), "gives no state")],
)
def test_states_that_nobody_knows_tell_nothing_of_where_sessions_are(states: tuple[str, ...], told: str) -> None:
    found = listed(*states)
    for name in ("crowd_resident_in_budget", "decoding_stays"):
        assert found[name].status is Status.INCONCLUSIVE
        assert told in found[name].reason
        assert "expected one of IDLE, ACTIVE" in found[name].reason
    assert found["crowd_held_at_once"].status is Status.PASS
    assert "on the device at once" not in found["crowd_held_at_once"].evidence


def test_states_that_are_known_tell_it() -> None:
    found = listed("ACTIVE", "IDLE")
    assert found["crowd_resident_in_budget"].status is found["decoding_stays"].status is Status.PASS
    assert listed("SWAPPED")["decoding_stays"].status is Status.FAIL


def test_a_server_that_lists_nothing_while_it_decodes_is_told_what_to_do() -> None:
    assert listed()["decoding_stays"].reason == "the server does not list its sessions"
    reply = Reply(ids=(1,), sent_s=STARTED_S, token_at_s=(STARTED_S + 2.5,))
    run = CrowdRun(
        scripts=(), replies=((reply,),), twins=(), errors=(), started_s=STARTED_S, ended_s=ENDED_S,
        samples=(StateSample(asked_s=STARTED_S, answered_s=STARTED_S + 3, states={"agent-0": "IDLE"}),),
    )  # fmt: skip
    row = _never_while_decoding(make_evidence(), run)
    assert row.status is Status.INCONCLUSIVE
    assert "answer GET /v1/sessions while it decodes" in row.reason
