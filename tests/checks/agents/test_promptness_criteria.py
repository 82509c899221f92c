"""A place is given back when memory stays down; a wake is late against the twins; a closed session leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from djinn_checks.checks.agents.pool.counts import Counts
from djinn_checks.checks.agents.pool.run import PoolRun, PoolSleep
from djinn_checks.checks.agents.promptness_criteria import judge_promptness, judge_wake
from djinn_checks.checks.agents.reply import SessionRecord
from djinn_checks.outcome import Criterion, Status
from tests.checks.agents.made_evidence import KV, OPENED_S, SETTLED_S, TOLD_S, WOKEN_S, make_one_sleep

TAKEN, FREE = 50_000_000 + KV, 50_000_000


def judged(memory: Callable[[float], int], **changed: Any) -> dict[str, Criterion]:
    return {criterion.name: criterion for criterion in judge_promptness(make_one_sleep(memory, **changed))}


def honest(t_s: float) -> int:
    return FREE if t_s < OPENED_S or TOLD_S + 0.1 <= t_s < WOKEN_S or t_s >= SETTLED_S + 0.05 else TAKEN


def test_memory_that_falls_at_once_and_stays_down_passes() -> None:
    rows = judged(honest)
    assert {row.status for row in rows.values()} == {Status.PASS}
    assert rows["kv_left_soon"].observed == pytest.approx(0.1, abs=0.03)


def test_what_falls_first_may_be_another_sessions_and_does_not_count() -> None:
    def late(t_s: float) -> int:
        other = KV if t_s < TOLD_S + 0.05 else 0  # of a session that was closed before
        return honest(t_s) + other + (KV if TOLD_S + 0.1 <= t_s < TOLD_S + 1.5 else 0)

    row = judged(late)["kv_left_soon"]
    assert row.status is Status.FAIL
    assert row.observed == pytest.approx(1.5, abs=0.03)


def test_memory_that_never_falls_was_never_given_back() -> None:
    rows = judged(lambda t_s: TAKEN)
    assert rows["kv_left_soon"].observed == float("inf")
    assert rows["closing_frees"].status is Status.FAIL


def test_a_server_that_is_not_told_may_take_its_idle_threshold_and_as_long_again() -> None:
    def later(t_s: float) -> int:
        return TAKEN if TOLD_S <= t_s < TOLD_S + 1.5 else honest(t_s)

    assert judged(later, idle_s=1.0, adapter="signal")["kv_left_soon"].status is Status.FAIL
    assert judged(later, idle_s=1.0, adapter="idle")["kv_left_soon"].status is Status.PASS


def test_a_wake_that_waits_for_half_the_idle_threshold_is_late() -> None:
    assert judged(honest, wake_s=0.5, idle_s=1.0)["woke_at_once"].status is Status.PASS
    assert judged(honest, wake_s=0.7, idle_s=1.0)["woke_at_once"].status is Status.FAIL


@pytest.mark.parametrize(("restore_s", "status"), [(0.5, Status.INCONCLUSIVE), (0.1, Status.FAIL)])
def test_a_late_wake_that_a_slow_restore_explains_is_left_open(restore_s: float, status: Status) -> None:
    made = make_one_sleep(honest, wake_s=0.8, idle_s=1.0)
    (sleep,) = made.sleeper.sleeps
    told = replace(sleep, after=SessionRecord(restore_s=restore_s))
    row = judge_wake(replace(made, sleeper=replace(made.sleeper, sleeps=(told,))))
    assert row.status is status
    assert ("500 ms are its restore" in row.reason) is (status is Status.INCONCLUSIVE)


@pytest.mark.parametrize(("load_s", "told"), [(0.5, "loads took 500 ms"), (None, "nothing of how long")])
def test_a_pools_late_wake_may_have_come_from_a_disk(load_s: float | None, told: str) -> None:
    late = replace(make_one_sleep(honest, wake_s=0.8, idle_s=1.0), pool=make_pool(Counts(load_s=load_s)))
    row = judge_wake(late)
    assert row.status is Status.INCONCLUSIVE
    assert told in row.reason
    soon = replace(make_one_sleep(honest, wake_s=0.3, idle_s=1.0), pool=make_pool(Counts(load_s=load_s)))
    assert judge_wake(soon).status is Status.PASS


def make_pool(woken: Counts) -> PoolRun:
    pushed = PoolSleep(by="others' prompts", pressed_tokens=1, woken=woken)
    return PoolRun(
        kind="vllm", version="0.26.0", missing={}, block_tokens=16, pool_tokens=9600, sleeps=(pushed,),
        counted=Counts(), left_s=0.0,
    )  # fmt: skip


def test_whether_the_server_or_a_machine_that_stalled_was_late_is_left_open() -> None:
    def later(t_s: float) -> int:
        return TAKEN if TOLD_S <= t_s < TOLD_S + 1.1 else honest(t_s)

    late = judged(later, idle_s=1.0, adapter="signal", stalls=(TOLD_S + 0.1, TOLD_S + 0.9))["kv_left_soon"]
    assert late.status is Status.INCONCLUSIVE
    assert "it took 1.08 s, of which 800 ms may be noise or the machine's own" in late.reason
    wake = judged(honest, wake_s=0.7, idle_s=1.0, stalls=(WOKEN_S + 0.1, WOKEN_S + 0.5))["woke_at_once"]
    assert wake.status is Status.INCONCLUSIVE
    wake = judged(honest, wake_s=0.7, idle_s=1.0, waits=(WOKEN_S + 0.1, WOKEN_S + 0.5))["woke_at_once"]
    assert wake.status is Status.INCONCLUSIVE, "others had the processor meanwhile"


def test_a_stall_excuses_no_more_than_its_own_time() -> None:
    for excuse in ("stalls", "waits"):
        rows = judged(honest, wake_s=1.2, idle_s=1.0, **{excuse: (WOKEN_S + 0.1, WOKEN_S + 0.5)})
        assert rows["woke_at_once"].status is Status.FAIL


def test_a_server_without_sessions_has_none_to_close() -> None:
    assert judged(honest, adapter="none")["closing_frees"].status is Status.INCONCLUSIVE


def test_a_restore_alone_is_timed_with_the_memory_for_it_as_it_is_under_load() -> None:
    assert make_one_sleep(honest).unloaded_restore_s() == pytest.approx(0.023)
