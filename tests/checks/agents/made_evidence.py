"""Evidence of the agents check, made to measure: everything is there, and a test changes what it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.reference import Reference
from djinn_checks.checks.agents.reply import Reply, SessionRecord
from djinn_checks.checks.agents.sleeper import Sleep, SleeperRun
from djinn_checks.instruments.server_memory import MemorySeries
from djinn_checks.params import AgentsParams

TOKENS = 101
"""Of a session, whose last one has not been fed back."""
KV = 10_000_000
"""Bytes of such a session."""
OPENED_S, ANSWERED_S, TOLD_S, WOKEN_S, SETTLED_S, GONE_S = 9.0, 9.7, 10.0, 13.0, 14.0, 14.3
"""When the session of `make_one_sleep` is opened, answered, told to sleep, woken, closed and gone."""

Span = tuple[float, float]
NEVER: Span = (0.0, 0.0)


def make_reply(sent_s: float, first_s: float) -> Reply:
    """Return an answer of one token."""
    return Reply(ids=(1,), sent_s=sent_s, token_at_s=(first_s,))


def make_run(first: Reply, **changed: Any) -> SleeperRun:
    """Return the run of a sleeper that has taken one turn."""
    values: dict[str, Any] = {
        "first": first, "sleeps": (), "hot": (), "again": (), "cold": (), "hot_record": None, "opened": None,
        "histories": ((),), "closed_s": 0.0, "gone_s": 0.0, "last_tokens": 0,
    }  # fmt: skip
    return SleeperRun(**(values | changed))


def make_reference(kv_bytes: float = KV) -> Reference:
    """Return what a resident model gave whose session of `TOKENS` tokens has so many bytes of KV in float32."""
    return Reference(
        kv_elements_per_token=int(kv_bytes) // (4 * (TOKENS - 1)), generated=(), nll_slept=(), nll_hot=(),
        repetition_slept=(), repetition_hot=(),
    )  # fmt: skip


def make_evidence(**changed: Any) -> AgentsEvidence:
    """Return the evidence of a run on a CPU in which nobody slept and nothing was read; `changed` replaces fields."""
    values: dict[str, Any] = {
        "params": AgentsParams.create(), "device": torch.device("cpu"), "kv_dtype": torch.float32,
        "sleeper": make_run(Reply()), "reference": make_reference(), "crowd": None, "memory": None,
        "memory_reason": "", "link": None, "token_pace": None, "decode": str, "is_alive": None,
    }  # fmt: skip
    return AgentsEvidence(**(values | changed))


def make_one_sleep(
    memory: Callable[[float], int], *, wake_s: float = 0.1, stalls: Span = NEVER, waits: Span = NEVER, **params: Any
) -> AgentsEvidence:
    """Return the evidence of one sleep; from when to when the machine `stalls`, nothing is read.

    From when to when the server `waits`, it is ready and others run.

    Args:
        memory: bytes at a time, which is read 50 times a second.
        wake_s: from the wake to the first token after it.
    """
    sleep = Sleep(
        told_s=TOLD_S,
        woken_s=WOKEN_S,
        tokens=TOKENS,
        asleep=None,
        after=SessionRecord(restore_s=0.02, allocate_s=0.003),
        last=make_reply(OPENED_S, ANSWERED_S),
        reply=make_reply(WOKEN_S, WOKEN_S + wake_s),
    )
    twins = (make_reply(0, 0.5), make_reply(1, 1.1))
    run = make_run(
        sleep.last, sleeps=(sleep,), hot=twins, again=twins, histories=((0,) * 90, (0,) * 100), last_tokens=TOKENS,
        closed_s=SETTLED_S, gone_s=GONE_S,
    )  # fmt: skip
    times = [at for at in (8 + step * 0.02 for step in range(400)) if not stalls[0] <= at < stalls[1]]
    waited = [max(0.0, min(at, waits[1]) - waits[0]) for at in times]
    readings = MemorySeries("made", times, [memory(at) for at in times], waited)
    return make_evidence(params=AgentsParams.create(**params), sleeper=run, memory=readings)
