"""Where rounding is blind the time to the first token tells a kept session from a recomputed one, or says that it does
not; and what one fact has already failed is not failed again."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from djinn_checks import Status
from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.one_fact import tell_once
from djinn_checks.checks.agents.recompute_criteria import _FirstTokens, judge_recomputation
from djinn_checks.checks.agents.reply import Reply, SessionRecord
from djinn_checks.outcome import Criterion, judge
from tests.checks.agents.made_evidence import KV, TOKENS, WOKEN_S, make_one_sleep, make_reply


def timed(
    after_s: float, *, kept_s: float = 0.05, anew_s: float = 1.0, apart: float = 0.0, **busy: tuple[float, float]
) -> AgentsEvidence:
    """Return evidence of a sleep after which the first token came so late; the recomputed twin rounds by `apart`."""
    made = make_one_sleep(lambda at: 0, wake_s=after_s, **busy)

    def told(seconds: float, logprob: float) -> Reply:
        return replace(make_reply(0.0, seconds), logprobs=(logprob,))

    kept, anew = told(kept_s, -1.0), told(anew_s, -1.0 - apart)
    (sleep,) = made.sleeper.sleeps
    slept = replace(sleep, reply=replace(sleep.reply, logprobs=(-1.0,)))
    run = replace(made.sleeper, sleeps=(slept,), hot=(kept, kept), again=(kept, kept), cold=(anew,))
    return replace(made, sleeper=run)


def rows(evidence: AgentsEvidence) -> dict[str, Criterion]:
    return {row.name: row for row in judge_recomputation(evidence)}


def first_tokens(kept: list[float], anew: list[float]) -> _FirstTokens:
    return _FirstTokens(slept=[], own=[], kept=kept, anew=anew, move_s=0.0)


@pytest.mark.parametrize(
    ("after_s", "status", "observed"),
    [(0.06, Status.PASS, "kept"), (0.97, Status.FAIL, "recomputed"), (0.7, Status.INCONCLUSIVE, None)],
)
def test_where_the_twins_round_alike_time_decides(after_s: float, status: Status, observed: str | None) -> None:
    found = rows(timed(after_s))
    assert (found["first_token_is_kept"].status, found["first_token_is_kept"].observed) == (status, observed)
    assert found["first_token_is_kept"].required
    assert found["rounding_is_kept"].status is Status.INCONCLUSIVE
    assert found["rounding_is_kept"].required is (status is Status.INCONCLUSIVE)


def test_twins_that_take_as_long_as_each_other_tell_nothing_and_say_so() -> None:
    found = rows(timed(0.06, anew_s=0.05))
    assert {row.status for row in found.values()} == {Status.INCONCLUSIVE}
    assert {row.required for row in found.values()} == {True}
    assert "are not apart under this load" in found["first_token_is_kept"].reason


def test_few_twins_that_are_apart_by_less_than_a_busy_machine_makes_a_turn_late_tell_nothing() -> None:
    assert rows(timed(0.002, kept_s=0.001, anew_s=0.02))["first_token_is_kept"].status is Status.INCONCLUSIVE
    assert first_tokens(kept=[0.001] * 4, anew=[0.02] * 2).are_apart


@given(st.lists(st.floats(0.001, 0.1), min_size=6, max_size=6, unique=True))
def test_of_all_ways_to_tell_six_times_into_twins_at_most_one_sets_them_apart(times: list[float]) -> None:
    ways = [set(anew) for anew in itertools.combinations(range(6), 2)]
    told = [
        first_tokens(kept=[times[at] for at in range(6) if at not in anew], anew=[times[at] for at in anew])
        for anew in ways
    ]
    assert sum(each.are_apart for each in told) <= 1


def test_a_server_that_put_off_every_turn_after_a_sleep_may_have_computed_meanwhile() -> None:
    made = timed(0.06, apart=0.01)
    (sleep,) = made.sleeper.sleeps
    put_off = replace(sleep, reply=replace(sleep.reply, refusals=1, refused_s=0.2))
    found = rows(replace(made, sleeper=replace(made.sleeper, sleeps=(put_off,))))["first_token_is_kept"]
    assert (found.status, found.required) == (Status.INCONCLUSIVE, True)
    assert "answered at once" in found.reason


def test_where_rounding_tells_time_is_not_asked() -> None:
    found = rows(timed(0.06, apart=0.01))
    assert found["rounding_is_kept"].status is Status.PASS
    assert found["first_token_is_kept"].status is Status.SKIP


@pytest.mark.parametrize(
    ("is_counted", "status"), [(None, Status.INCONCLUSIVE), (False, Status.INCONCLUSIVE), (True, Status.SKIP)]
)
def test_who_rounds_as_kept_and_is_as_late_as_computed_anew_passes_only_if_a_link_carried_its_bytes(
    is_counted: bool | None, status: Status
) -> None:
    rounding, first_token = judge_recomputation(timed(0.97, apart=0.01), is_counted=is_counted)
    assert rounding.status is Status.PASS
    assert (first_token.status, first_token.required) == (status, True)
    if status is Status.INCONCLUSIVE:
        assert "a slow way back, or computed again in the same parts" in first_token.reason
        assert "970 ms after a sleep, 50 ms kept, 1.00 s computed anew" in first_token.evidence


@pytest.mark.parametrize("delay", ["stalls", "waits"])
def test_a_machine_that_was_late_is_no_sign_of_a_session_that_was_computed_anew(delay: str) -> None:
    made = timed(0.97, apart=0.01, **{delay: (WOKEN_S + 0.1, WOKEN_S + 0.9)})
    assert rows(made)["first_token_is_kept"].status is Status.SKIP


@pytest.mark.parametrize(
    ("restore_s", "is_counted", "status"),
    [(0.02, None, Status.FAIL), (0.9, None, Status.INCONCLUSIVE), (None, None, Status.INCONCLUSIVE),
     (None, False, Status.FAIL), (0.9, False, Status.FAIL), (0.02, True, Status.INCONCLUSIVE)],
)  # fmt: skip
def test_a_late_session_is_accused_only_if_no_slow_way_back_explains_it(
    restore_s: float | None, is_counted: bool | None, status: Status
) -> None:
    made = timed(0.97)
    (sleep,) = made.sleeper.sleeps
    told = replace(sleep, after=SessionRecord(restore_s=restore_s))
    evidence = replace(made, sleeper=replace(made.sleeper, sleeps=(told,)))
    rounding, first_token = judge_recomputation(evidence, is_counted=is_counted)
    assert rounding.status is Status.INCONCLUSIVE
    assert first_token.status is status
    assert first_token.required


def test_a_kv_that_never_left_is_one_fail_and_is_never_gone_after_infinite_seconds() -> None:
    repeated = ("kv_returned", "kv_left_soon", "closing_frees")
    made = [judge("kv_left_device", "It left", 0.0, ">=", 0.98, unit="", evidence="")]
    made += [judge(name, "A title", math.inf, "<=", 1.0, unit="s", evidence="") for name in repeated]
    assert {row.status for row in made} == {Status.FAIL}
    left, *others = tell_once(made, is_pool=False)
    assert left == made[0]
    assert {row.status for row in others} == {Status.INCONCLUSIVE}
    assert all("'kv_left_device'" in row.reason and "inf" not in row.reason for row in others)


def test_a_row_whose_cause_holds_keeps_its_fail() -> None:
    made = [judge(name, "A title", seen, "==", 1, unit="", evidence="") for name, seen in
            (("kv_left_device", 1), ("kv_returned", 0))]  # fmt: skip
    assert [row.status for row in tell_once(made, is_pool=False)] == [Status.PASS, Status.FAIL]


@pytest.mark.parametrize(
    ("written", "expected"),
    [(KV / 2, KV / 2), (None, KV), (KV / 100, KV), (2 * KV, KV)],
    ids=["quantized", "not said", "too little to be true", "more than the numbers take"],
)
def test_a_sessions_size_is_what_the_server_says_that_it_keeps_if_that_can_be(
    written: float | None, expected: float
) -> None:
    made = make_one_sleep(lambda at: 0)
    (sleep,) = made.sleeper.sleeps
    told = replace(sleep, asleep=SessionRecord(kept_bytes=None if written is None else int(written)))
    evidence = replace(made, sleeper=replace(made.sleeper, sleeps=(told,)))
    assert evidence.kv_bytes(TOKENS) == pytest.approx(expected, rel=1e-6)
