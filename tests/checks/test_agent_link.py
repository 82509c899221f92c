"""What is counted on the link is the KV: neither chatter nor what comes later fills up what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from djinn_checks.checks.agent_client import Reply
from djinn_checks.checks.agent_criteria import _on_link
from djinn_checks.checks.agent_evidence import AgentsEvidence
from djinn_checks.checks.agent_link import LinkEvidence
from djinn_checks.checks.agent_reference import Reference
from djinn_checks.checks.agent_sleeper import Sleep, SleeperRun
from djinn_checks.instruments.counters import build_series
from djinn_checks.instruments.link_ceiling import Ceiling
from djinn_checks.outcome import Criterion, Status
from djinn_checks.params import AgentsParams

KV = 1_000_000_000
"""Bytes, of 101 tokens whose last one has not been fed back."""
CHATTER = 20e6
"""Bytes per second of a link at rest, as counters that are read a thousand times a second see them."""
WIRE = {"rx": 1.08, "tx": 1.09}
RATE = 50e9
TOLD_S, WOKEN_S, FIRST_TOKEN_S = 2.0, 32.0, 32.06

Copies = list[tuple[float, float]]
"""When each begins, and its bytes."""


def judged(out: Copies, back: Copies) -> dict[str, Criterion]:
    known = {"tx": [(1.1, KV), *out], "rx": [(0.1, KV), *back]}
    ceilings = {"out": ceiling("d2h", 1.0), "in": ceiling("h2d", 0.0)}
    times = np.arange(0, 35, 1e-3)
    counters = {name: np.mod(wire_bytes(times, copies) * WIRE[name], 2**32) for name, copies in known.items()}
    series = build_series(times, times, counters["rx"].astype(np.int64), counters["tx"].astype(np.int64), source="made")
    evidence = agents_evidence(LinkEvidence(ceilings=ceilings, series=series))
    return {direction: _on_link(evidence, direction, "", direction) for direction in ("out", "in")}


def wire_bytes(times: Any, copies: Copies) -> Any:
    return CHATTER * times + sum(np.clip((times - start) * RATE, 0, nbytes) for start, nbytes in copies)


def ceiling(direction: str, start_s: float) -> Ceiling:
    return Ceiling(
        kind="pcie", direction=direction, pinned=True, nbytes=KV, bytes_per_s=RATE, spread=0.0, samples_s=(),
        verified=True, start_s=start_s, end_s=start_s + 0.2, copied_bytes=KV,
    )  # fmt: skip


def agents_evidence(link: LinkEvidence) -> AgentsEvidence:
    reply = Reply(ids=(1,), sent_s=WOKEN_S, token_at_s=(FIRST_TOKEN_S,))
    sleep = Sleep(
        told_s=TOLD_S, woken_s=WOKEN_S, settled_s=34.0, tokens=101, before=None, asleep=None, after=None, reply=reply
    )
    run = SleeperRun(
        first=reply, sleeps=(sleep,), hot=(), again=(), cold=(), hot_record=None, histories=((),), closed_s=34.0,
        gone_s=34.3,
    )  # fmt: skip
    reference = Reference(
        kv_elements_per_token=KV // 400, generated=(), nll_slept=(), nll_hot=(), repetition_slept=(), repetition_hot=()
    )
    return AgentsEvidence(
        params=AgentsParams.create(), device=torch.device("cuda"), kv_dtype=torch.float32, sleeper=run,
        reference=reference, crowd=None, memory=None, memory_reason="", link=link, pace=None, is_alive=None,
    )  # fmt: skip


def test_a_session_that_leaves_and_comes_back_counts_once_each_way() -> None:
    rows = judged([(2.01, KV)], [(32.005, KV)])
    assert {row.status for row in rows.values()} == {Status.PASS}
    assert [row.observed for row in rows.values()] == pytest.approx([1.0, 1.0], abs=0.01)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_what_the_link_carries_at_rest_does_not_stand_for_bytes_that_stayed(share: float) -> None:
    rows = judged([(2.01, share * KV)], [(32.005, share * KV)])
    assert {row.status for row in rows.values()} == {Status.FAIL}
    assert [row.observed for row in rows.values()] == pytest.approx([share, share], abs=0.01)


def test_bytes_that_come_after_the_first_token_were_not_there_for_it() -> None:
    assert judged([(2.01, KV)], [(32.07, KV)])["in"].status is Status.FAIL


def test_bytes_that_leave_when_the_sleep_is_nearly_over_made_room_for_nobody() -> None:
    assert judged([(31.0, KV)], [(32.005, KV)])["out"].status is Status.FAIL
