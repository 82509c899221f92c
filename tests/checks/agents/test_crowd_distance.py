"""What rounding does to an answer in a crowd is no alarm, and what another session's KV does is one."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from djinn_checks import AgentsParams, Status
from djinn_checks.checks.agents.answer_distance import turn_distance
from djinn_checks.checks.agents.crowd import CrowdRun, Second
from djinn_checks.checks.agents.crowd_criteria import judge_everyone
from djinn_checks.checks.agents.pool.counts import Counts
from djinn_checks.checks.agents.power import rate_excluded, restores_for
from djinn_checks.checks.agents.reply import Reply
from djinn_checks.outcome import Criterion
from tests.checks.agents.made_crowd import TOKENS, crowd, moved
from tests.checks.agents.made_evidence import make_evidence, make_run

ROWS = ("crowd_texts_equal_twins", "crowd_logprobs_equal_twins")


def rows(run: CrowdRun, **params: Any) -> dict[str, Criterion]:
    agents, turns = len(run.scripts), len(run.twins[0])
    evidence = make_evidence(params=AgentsParams.create(agents=agents, turns=max(turns, 2), **params))
    return {row.name: row for row in judge_everyone(evidence, run)}


@pytest.mark.parametrize("nats", [0.0, 1e-6, 0.02])
def test_thirty_clean_crowds_raise_no_alarm_however_they_round(nats: float) -> None:
    for seed in range(30):
        found = rows(crowd(8, 3, nats=nats, seed=seed))
        assert found["crowd_logprobs_equal_twins"].status is Status.PASS, seed


def test_a_model_that_is_rounded_by_half_a_nat_and_more_raises_no_alarm_and_another_session_s_answer_does() -> None:
    for seed in range(30):
        found = rows(crowd(16, 3, nats=0.4, seed=seed), adapter="none")
        assert found["crowd_logprobs_equal_twins"].status in (Status.PASS, Status.INCONCLUSIVE), seed
        assert found["crowd_texts_equal_twins"].status is not Status.FAIL
    chance = random.Random(0)
    run = crowd(16, 3, nats=0.4)
    answers = [list(replies) for replies in run.replies]
    far = replace(run.twins[3][1], logprobs=tuple((value or 0) - 4 for value in run.twins[3][1].logprobs))
    answers[4][1] = moved(far, chance, 0.4)
    found = rows(replace(run, replies=tuple(map(tuple, answers))), adapter="none")
    assert [found[name].status for name in ROWS] == [Status.FAIL] * 2


def test_a_server_whose_first_turns_are_off_as_well_passes_nothing() -> None:
    chance = random.Random(1)
    run = crowd(16, 3, nats=0.01)
    worse = [
        (
            moved(replies[0], chance, 0.9) if agent < 9 else replies[0],
            *(moved(reply, chance, 1.2) for reply in replies[1:]),
        )
        for agent, replies in enumerate(run.replies)
    ]
    found = rows(replace(run, replies=tuple(worse)), adapter="none")
    assert {found[name].status for name in ROWS} <= {Status.INCONCLUSIVE, Status.FAIL}
    assert "far from theirs, too" in found[ROWS[0]].reason


def test_first_turns_of_which_half_are_anothers_fail() -> None:
    run = crowd(4, 3, nats=0.0)
    off = [replace(reply, logprobs=tuple((value or 0) - 5 for value in reply.logprobs)) for reply in
           (run.replies[0][0], run.replies[1][0])]  # fmt: skip
    answers = ((off[0], *run.replies[0][1:]), (off[1], *run.replies[1][1:]), *run.replies[2:])
    assert rows(replace(run, replies=answers), adapter="none")["crowd_texts_equal_twins"].status is Status.FAIL


@pytest.mark.parametrize("nats", [0.0, 1e-6, 0.02])
def test_one_wrong_answer_in_2000_turns_is_found(nats: float) -> None:
    found = rows(crowd(50, 40, nats=nats, swapped=(17, 6)))
    assert found["crowd_logprobs_equal_twins"].status is Status.FAIL
    assert "agent 17, turn 7" in found["crowd_logprobs_equal_twins"].reason


def unsure(chance: random.Random) -> Reply:
    """Return an answer of a model to which half of all words are as likely as any other."""
    ids = tuple(chance.randrange(500) for _ in range(TOKENS))
    best = [-6.0 + chance.uniform(0.0, 0.05) for _ in ids]
    tops = [value for likely in best for value in (likely, likely - chance.uniform(0.0, 0.05))]
    return Reply(ids=ids, logprobs=tuple(best), runners_up=tuple(tops), token_at_s=(1.0,))


def test_a_crowd_of_a_model_that_tells_nobody_apart_shows_nothing_and_a_gross_difference_all_the_same() -> None:
    chance = random.Random(0)
    twins = tuple(tuple(unsure(chance) for _ in range(3)) for _ in range(6))
    answers = [[moved(reply, chance, 0.02) for reply in twin] for twin in twins]
    answers[2][1] = twins[3][1]  # another's answer, which is as likely
    run = replace(crowd(6, 3, nats=0.0), twins=twins, replies=tuple(map(tuple, answers)))
    found = rows(run, adapter="none")
    assert [found[name].status for name in ROWS] == [Status.INCONCLUSIVE] * 2
    assert "100% of other agents' answers would pass as an agent's own" in found[ROWS[0]].reason
    answers[2][1] = replace(answers[2][1], logprobs=(-1.0,) * TOKENS)
    found = rows(replace(run, replies=tuple(map(tuple, answers))), adapter="none")
    assert [found[name].status for name in ROWS] == [Status.FAIL] * 2


def test_a_crowd_that_says_one_and_the_same_shows_nothing_by_its_texts() -> None:
    run = crowd(6, 3, nats=0.0)
    same = replace(run, twins=run.twins[:1] * 6, replies=run.twins[:1] * 6)
    found = rows(same)
    assert found["crowd_texts_equal_twins"].status is Status.INCONCLUSIVE


def test_a_code_word_planted_once_in_2000_turns_is_found() -> None:
    run = crowd(50, 40, nats=0.0)
    replies = [list(turns) for turns in run.replies]
    replies[31][4] = Reply(ids=(5, 1000 + 27, 6), token_at_s=(1.0,))
    run.replies = tuple(map(tuple, replies))
    leak = rows(run)["code_words_kept"]
    assert (leak.status, leak.observed) == (Status.FAIL, 1)
    assert "agent 31 said agent 27's" in leak.reason


def test_a_token_that_was_nearly_as_likely_is_rounding_and_one_that_was_not_is_none() -> None:
    twin = Reply(ids=(1, 2, 3), logprobs=(-0.5, -0.9, -0.1), runners_up=(-0.5, -2.0, -0.9, -0.91, -0.1, -3.0))
    near = Reply(ids=(1, 9, 8), logprobs=(-0.5, -0.9, -5.0), runners_up=(0.0,) * 6)
    far = Reply(ids=(7, 2, 3), logprobs=(-0.5, -0.9, -0.1), runners_up=twin.runners_up)
    assert turn_distance(near, twin) == pytest.approx(0.01)
    assert turn_distance(far, twin) == pytest.approx(1.5)
    assert turn_distance(Reply(ids=(1, 2), logprobs=(-0.5, -0.9)), twin) == math.inf
    assert turn_distance(Reply(text="a"), Reply(text="b")) is None


def test_tokens_without_ids_are_held_as_they_are_written_beside_their_log_probabilities() -> None:
    def written(*tokens: str) -> Reply:
        return Reply(text="".join(tokens), tokens=tokens, logprobs=(-0.5,) * len(tokens),
                     runners_up=(-0.5, -0.51, -0.5, -3.0)[: 2 * len(tokens)])  # fmt: skip

    twin = written("a", "b")
    assert turn_distance(written("c", "d"), twin) == pytest.approx(0.01)
    assert turn_distance(written("a", "d"), twin) == pytest.approx(2.5)
    assert turn_distance(written("a"), twin) == math.inf
    assert turn_distance(replace(twin, text="\ufffd"), twin) is None  # other tokens that are written the same
    assert turn_distance(replace(written("a", "d"), tokens=("a",)), twin) is None


def textual(run: CrowdRun, wrong: Sequence[tuple[int, int]]) -> CrowdRun:
    """Return a crowd without ids and log-probabilities; some agents' turns say something else than their twins."""

    def text(reply: Reply, other: bool) -> Reply:
        return Reply(text=f"{reply.ids}{other * ' not'}", token_at_s=reply.token_at_s)

    return replace(
        run,
        twins=tuple(tuple(text(reply, False) for reply in twin) for twin in run.twins),
        replies=tuple(
            tuple(text(reply, (agent, turn) in wrong) for turn, reply in enumerate(replies))
            for agent, replies in enumerate(run.replies)
        ),
    )


LATER = [(agent, turn) for agent in range(8) for turn in (1, 2)]


@pytest.mark.parametrize(
    ("wrong", "status", "told"),
    [
        ([], Status.PASS, ""),
        ([(0, 0), *LATER], Status.INCONCLUSIVE, "does not say the same twice"),
        (LATER[:3], Status.INCONCLUSIVE, "3 of 16 turns .* not shown by 8 turns that were never restored"),
        (LATER[:8], Status.FAIL, "agents 0, 1, 2, 3"),
    ],
)
def test_texts_alone_accuse_nobody_of_what_rounding_may_have_done(
    wrong: list[tuple[int, int]], status: Status, told: str
) -> None:
    row = rows(textual(crowd(8, 3, nats=0.0), wrong), adapter="none")[ROWS[0]]
    assert row.status is status
    assert re.search(told, row.reason)


def test_texts_alone_accuse_no_server_whose_sleepers_twins_differ_from_themselves() -> None:
    run = textual(crowd(8, 3, nats=0.0), LATER)
    alone = make_run(run.twins[0][0], hot=run.twins[0], again=run.twins[1])
    evidence = make_evidence(params=AgentsParams.create(agents=8, turns=3, adapter="none"), sleeper=alone)
    row = {row.name: row for row in judge_everyone(evidence, run)}[ROWS[0]]
    assert row.status is Status.INCONCLUSIVE
    signal = replace(evidence, params=AgentsParams.create(agents=8, turns=3))
    assert {row.name: row for row in judge_everyone(signal, run)}[ROWS[0]].status is Status.FAIL


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10**7))
def test_the_bound_that_is_stated_is_the_rule_of_three(restores: int) -> None:
    rate = rate_excluded(restores)
    assert (1 - rate) ** restores == pytest.approx(0.05, rel=1e-6)
    assert 2.995 / restores * (1 - 1.5 / restores) <= rate <= 3 / restores
    assert restores_for(rate) in (restores, restores + 1)


def test_restores_of_a_pool_are_counted_without_what_came_for_first_turns_and_for_clients_that_went_away() -> None:
    run = crowd(4, 3, nats=0.0)
    longer = tuple(tuple(replace(reply, prompt_tokens=100) for reply in replies) for replies in run.replies)
    scripts = tuple(replace(script, prompt=(1,) * 80, shared_tokens=40) for script in run.scripts[:2]) + run.scripts[2:]
    gone = Second(agent=0, turn=1, reply=None)
    pool = replace(run, replies=longer, counts=Counts(host=980.0))
    assert pool.least_restores() == 8  # no more than sessions that paused
    assert replace(pool, counts=Counts(host=680.0)).least_restores() == 6
    assert replace(pool, scripts=scripts, counts=Counts(host=680.0)).least_restores() == 6
    assert replace(pool, scripts=scripts, counts=Counts(host=679.0)).least_restores() == 5
    assert replace(pool, scripts=scripts, counts=Counts(host=680.0), rounds=2).least_restores() == 4
    assert replace(pool, seconds=(gone,), counts=Counts(host=680.0)).least_restores() == 5
    early = Second(agent=0, turn=0, reply=longer[0][0])
    assert replace(pool, seconds=(early,), counts=Counts(host=680.0)).least_restores() == 5
    assert replace(pool, counts=Counts()).least_restores() is None


def test_what_a_run_says_of_rare_wrong_restores_is_its_own_power() -> None:
    run = crowd(100, 11, nats=0.0)
    untold = rows(run)["wrong_rate_excluded"]
    assert untold.status is Status.SKIP
    assert "1,000 restores and none wrong: a rate above 0.003 would have been seen with 95 %" in untold.reason
    assert "for 1 in 10,000 it takes 29,956 of them" in untold.reason
    assert rows(run, most_wrong_rate=0.01)["wrong_rate_excluded"].status is Status.PASS
    short = rows(run, most_wrong_rate=1e-4)["wrong_rate_excluded"]
    assert short.status is Status.INCONCLUSIVE
    assert "29,956 are needed" in short.reason


def test_a_run_with_a_wrong_answer_excludes_no_rate() -> None:
    row = rows(crowd(100, 11, nats=0.0, swapped=(17, 6)), most_wrong_rate=0.01)["wrong_rate_excluded"]
    assert row.status is Status.INCONCLUSIVE
    assert "answers that are wrong: no rate is excluded" in row.reason
