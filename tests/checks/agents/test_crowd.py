"""A crowd does what it was asked to do: it comes in bursts, begins alike, is disturbed, and is asked for its words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from djinn_checks import AgentsParams, Status
from djinn_checks.checks.agents import crowd as agent_crowd
from djinn_checks.checks.agents.client import AgentClient
from djinn_checks.checks.agents.crowd import CrowdRun, Second, _arrivals, run_crowd
from djinn_checks.checks.agents.crowd_criteria import judge_everyone
from djinn_checks.checks.agents.first_wrong import find_first_wrong
from djinn_checks.checks.agents.pool.client import VllmClient
from djinn_checks.checks.agents.pool.counts import Series
from djinn_checks.checks.agents.reply import Reply
from djinn_checks.checks.agents.scripts import AgentScript, says_code_word, write_script
from djinn_checks.errors import InstrumentError
from djinn_checks.models.open import Model, open_model
from djinn_checks.outcome import Criterion
from tests.checks.agents.made_evidence import make_evidence, make_run


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return bytes(ids).decode(errors="replace")


@pytest.fixture(scope="module")
def model() -> Model:
    return replace(open_model("random:tiny", dtype=torch.float32, device=torch.device("cpu")), tokenizer=Bytes())


@dataclass
class Asked:
    session: str
    prompt: tuple[int, ...]
    tokens: int
    salt: str


@dataclass
class Scripted:
    """What a client without a server was asked, and how many asked at the same time."""

    forgets: str = ""
    """A session that does not know its code word any more."""
    refuses: bool = False
    """Refuses whom else asks for a session that is being answered."""
    each_s: float = 0.01
    asked: list[Asked] = field(default_factory=list)
    running: set[str] = field(default_factory=set)


def client_of(scripted: Scripted) -> AgentClient:
    """Return a client of a pool that repeats a session's code word, which stands behind "code word is"."""

    class Client(VllmClient):
        async def turn(self, session: str, prompt: Sequence[int], max_tokens: int, *, logprobs: bool = True) -> Reply:
            salt = str(self._session_fields(session)["cache_salt"])
            scripted.asked.append(Asked(session, tuple(prompt), max_tokens, salt))
            if scripted.refuses and session in scripted.running:
                raise InstrumentError("HTTP 409: the session is busy")
            scripted.running.add(session)
            sent = time.monotonic()
            try:
                await asyncio.sleep(scripted.each_s)
            finally:
                scripted.running.discard(session)
            text = bytes(prompt).decode(errors="replace")
            word = (
                text.partition("code word is ")[2].partition(".")[0] if text.endswith("word is") else f"{sum(prompt)}"
            )
            said = " nothing" if session == scripted.forgets and text.endswith("word is") else f" {word}"
            ids = tuple(said.encode())
            return Reply(ids=ids, text=said, logprobs=(-0.5,) * len(ids), runners_up=(-0.5, -9.0) * len(ids),
                         sent_s=sent, token_at_s=(time.monotonic(),))  # fmt: skip

        async def empty_all(self) -> bool:
            return False

        async def series(self) -> list[Series]:
            return []

    return Client("http://127.0.0.1:9")


def run(
    model: Model, scripted: Scripted, monkeypatch: pytest.MonkeyPatch, *, turns: int = 3, **options: Any
) -> tuple[list[AgentScript], CrowdRun]:
    monkeypatch.setattr(agent_crowd, "SETTLE_S", 0.0)
    scripts = [
        write_script(model, number=1 + agent, tokens=160, turns=turns, seed=0, shares=agent < 3, closes=True)
        for agent in range(6)
    ]
    told: dict[str, Any] = {"new_tokens": 4, "arrival_rate": 1000.0, "think_s": (0.0, 0.001), "seed": 0} | options
    monkeypatch.setattr(agent_crowd, "_counts", nothing_counted)
    return scripts, asyncio.run(run_crowd(client_of(scripted), model, scripts, **told))


async def nothing_counted(*_: Any) -> None:
    return None


def rows(crowd: CrowdRun) -> dict[str, Criterion]:
    turns = len(crowd.twins[0])
    evidence = make_evidence(params=AgentsParams.create(agents=len(crowd.scripts), turns=turns), crowd=crowd)
    return {row.name: row for row in judge_everyone(evidence, crowd)}


def test_a_burst_arrives_at_the_same_moment_and_then_nobody_for_a_while() -> None:
    assert _arrivals([1.0, 2.0, 3.0, 4.0, 5.0], 2) == [1.0, 1.0, 4.0, 4.0, 9.0]
    assert _arrivals([1.0, 2.0], 1) == [1.0, 3.0]


def test_prompts_that_begin_alike_share_what_is_cached_and_no_others_do(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = Scripted()
    scripts, _ = run(model, scripted, monkeypatch)
    assert [script.shared_tokens for script in scripts] == [80, 80, 80, 0, 0, 0]
    assert len({script.prompt[:80] for script in scripts[:3]}) == 1
    assert len({script.prompt for script in scripts}) == 6
    salts = {asked.session: asked.salt for asked in scripted.asked}
    shared = {salts[f"agent-{number}"] for number in range(3)}
    assert len(shared) == 1
    assert len(set(salts.values())) == len(salts) - 2
    assert {len(script.prompt) for script in scripts} == {160}


def test_random_prompts_begin_alike_too_and_keep_their_code_words() -> None:
    model = open_model("random:tiny", dtype=torch.float32, device=torch.device("cpu"))
    first, second = (write_script(model, number=number, tokens=80, turns=2, seed=0, shares=True) for number in (1, 2))
    assert first.prompt[:40] == second.prompt[:40]
    assert says_code_word(first, "", first.prompt)
    assert not says_code_word(first, "", second.prompt)
    assert not first.asks
    short = write_script(model, number=1, tokens=20, turns=2, seed=0, shares=True)
    assert (short.shared_tokens, len(short.prompt)) == (0, 20)


def test_at_its_end_every_agent_is_asked_for_its_word_with_room_to_say_it(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = Scripted()
    scripts, crowd = run(model, scripted, monkeypatch)
    last = [asked for asked in scripted.asked if bytes(asked.prompt).endswith(b"Your code word is")]
    assert len(last) == 2 * len(scripts)
    assert {asked.tokens for asked in last} == {8}
    assert {asked.tokens for asked in scripted.asked if asked not in last} == {4}
    found = rows(crowd)
    assert found["code_words_recalled"].status is Status.PASS
    assert found["code_words_kept"].status is Status.PASS
    assert found["code_words_recalled"].evidence.startswith("6 of 6 agents")


def test_a_session_that_lost_its_word_is_named_and_says_something_else_than_its_twin(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rows(run(model, Scripted(forgets="agent-4"), monkeypatch)[1])
    assert found["code_words_recalled"].status is Status.FAIL
    assert "agents 4" in found["code_words_recalled"].reason
    assert found["crowd_texts_equal_twins"].status is Status.FAIL


def test_a_word_that_nearly_was_another_token_is_rounding_and_a_model_that_repeats_none_is_not_asked_to(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, crowd = run(model, Scripted(), monkeypatch)
    said = crowd.twins[4][-1]
    near = replace(said, ids=(*said.ids[:-1], 1), text="something else")
    sure = replace(said, runners_up=(-0.5, -0.51) * len(said.ids))
    crowd.replies = tuple((*turns[:-1], near) if agent == 4 else turns for agent, turns in enumerate(crowd.replies))
    assert rows(crowd)["code_words_recalled"].status is Status.FAIL
    crowd.twins = tuple((*turns[:-1], sure) if agent == 4 else turns for agent, turns in enumerate(crowd.twins))
    unsure = rows(crowd)["code_words_recalled"]
    assert unsure.status is Status.PASS
    assert "1 said another token that was nearly as likely" in unsure.evidence
    crowd.twins = tuple((*turns[:-1], replace(turns[-1], text="no")) for turns in crowd.twins)
    assert rows(crowd)["code_words_recalled"].status is Status.SKIP


def test_second_clients_stay_or_go_away_in_the_middle_and_never_in_a_first_turn_that_tells_what_rounding_does(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, crowd = run(model, Scripted(each_s=0.02), monkeypatch, turns=6, disturbed_share=0.6)
    assert sum(second.is_cancelled for second in crowd.seconds) >= 3
    assert sum(second.reply is not None for second in crowd.seconds) >= 3
    assert all(second.turn > 0 or second.agent < 3 for second in crowd.seconds)
    told = rows(crowd)["crowd_answered"].evidence
    assert "requests that were cancelled" in told
    assert "turns asked by two clients" in told
    assert rows(crowd)["crowd_answered"].status is Status.PASS


def test_a_second_client_that_is_refused_is_no_alarm_and_is_told(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    _, crowd = run(model, Scripted(), monkeypatch)
    crowd.seconds = (Second(agent=4, turn=1, reply=None, refused="HTTP 409"),)
    found = rows(crowd)
    assert "1 second clients that were refused" in found["crowd_answered"].evidence
    assert {row.status for row in found.values() if row.required} <= {Status.PASS, Status.SKIP}


def test_what_a_second_client_is_told_is_looked_through_as_well(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts, crowd = run(model, Scripted(), monkeypatch)
    stolen = replace(crowd.twins[1][1], text=f" {scripts[5].code_word}")
    crowd.seconds = (Second(agent=1, turn=1, reply=stolen),)
    leak = rows(crowd)["code_words_kept"]
    assert leak.status is Status.FAIL
    assert "agent 1 said agent 5's" in leak.reason


def test_what_a_crowd_did_not_try_is_said(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    _, crowd = run(model, Scripted(), monkeypatch, turns=2)
    crowd.scripts = tuple(replace(script, shared_tokens=0) for script in crowd.scripts)
    told = rows(crowd)["crowd_answered"].evidence
    for what in ("several pauses", "bursts of arrivals", "prompts that begin alike", "cancelled requests",
                 "one session asked by two clients"):  # fmt: skip
        assert what in told.partition("not tried: ")[2]
    assert "; tried" not in told


@pytest.mark.parametrize("place", [7, 12, 18])
def test_the_turns_until_the_first_wrong_one_are_counted_in_the_order_of_their_ends(place: int) -> None:
    said = [[Reply(ids=(1,), logprobs=(-0.5,), runners_up=(-0.5, -2.0), token_at_s=(float(10 * turn + agent),))
             for turn in range(3)] for agent in range(6)]  # fmt: skip
    later = [(agent, turn) for turn in (1, 2) for agent in range(6)]
    crowd = CrowdRun(
        scripts=(AgentScript(prompt=(1,), follow_ups=((1,), (1,)), code_word="", code_ids=(7,)),) * 6,
        replies=tuple(map(tuple, said)), twins=tuple(map(tuple, said)), errors=(), samples=(), started_s=0.0,
        ended_s=1.0,
    )  # fmt: skip
    alone = make_run(said[0][0], hot=(said[0][0],))
    evidence = make_evidence(params=AgentsParams.create(agents=6, turns=3), crowd=crowd, sleeper=alone)
    assert find_first_wrong(evidence) == {"sleeper": None, "crowd": None, "crowd_turns": 18}
    for agent, turn in reversed(later[place - 7 :]):
        said[agent][turn] = replace(said[agent][turn], logprobs=(-0.6,))
    crowd.replies = tuple(map(tuple, said))
    assert find_first_wrong(evidence)["crowd"] == place
