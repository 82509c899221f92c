"""Many agents share a device if its memory says so from outside, whatever the server's list and counts say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from djinn_checks.checks.agents.crowd import CrowdRun
from djinn_checks.checks.agents.crowd_criteria import judge_crowd
from djinn_checks.checks.agents.reply import Reply
from djinn_checks.checks.agents.scripts import AgentScript
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
