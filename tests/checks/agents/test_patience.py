"""Who answers later and says so is asked again, for as long as it asks for and within bounds, and is not accused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from djinn_checks import AgentsParams, Status
from djinn_checks.checks.agents import client, patience
from djinn_checks.checks.agents.client import AgentClient
from djinn_checks.checks.agents.connect import connect
from djinn_checks.checks.agents.crowd_criteria import judge_everyone
from djinn_checks.checks.agents.patience import is_later, read_pause_s
from djinn_checks.checks.agents.sleeper_criteria import judge_survival
from djinn_checks.errors import InstrumentError
from tests.checks.agents.fake_vllm import Quiet, listening
from tests.checks.agents.made_crowd import crowd
from tests.checks.agents.made_evidence import make_evidence, make_one_sleep

PAUSE_S = 0.2


@contextlib.contextmanager
def serve_later(times: int, *, status: int = 429, text: str = "busy") -> Iterator[tuple[str, list[str]]]:
    """Serve a token to whom was refused so many times; give the address and what was asked."""
    asked: list[str] = []

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            asked.append(self.path)
            if len(asked) > times:
                self.answer(200, 'data: {"choices": [{"text": " yes"}]}\n\ndata: [DONE]\n\n')
                return
            self.send_response(status)
            self.send_header("Retry-After", str(PAUSE_S))
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

    with listening(Handler) as address:
        yield address, asked


def take(address: str, *, adapter: str = "none") -> Any:
    async def ask() -> Any:
        async with contextlib.aclosing(connect(adapter, address, model="m")) as asking:
            if adapter == "none":
                return await asking.turn("a", [1], 1)
            await asking.sleep("a")
            return asking.put_off_s

    return asyncio.run(ask())


@pytest.mark.parametrize("status", [429, 503])
def test_a_turn_that_is_put_off_is_asked_again_and_its_times_are_those_of_the_request_that_was_answered(
    status: int,
) -> None:
    with serve_later(2, status=status) as (address, asked):
        reply = take(address)
    assert (reply.text, reply.refusals, len(asked)) == (" yes", 2, 3)
    assert reply.refused_s >= 2 * PAUSE_S
    assert reply.felt_wake_s == pytest.approx(reply.wake_s + reply.refused_s)


def test_a_sleep_that_is_put_off_is_told_later() -> None:
    with serve_later(1) as (address, asked):
        assert take(address, adapter="signal") == PAUSE_S
    assert len(asked) == 2


@pytest.mark.parametrize("adapter", ["none", "signal"])
def test_who_never_answers_is_asked_so_often_and_no_more(adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TURN_TRIES" if adapter == "none" else "OTHER_TRIES", 3)
    with serve_later(99) as (address, asked), pytest.raises(InstrumentError, match="HTTP 429: busy; refused 3 times"):
        take(address, adapter=adapter)
    assert len(asked) == 3


def test_who_says_to_come_back_when_the_check_is_over_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_MOST_S", PAUSE_S / 2)
    with serve_later(99) as (address, asked), pytest.raises(InstrumentError, match="refused 1 times"):
        take(address)
    assert len(asked) == 1


def test_a_server_without_memory_is_not_asked_until_it_has_some() -> None:
    with serve_later(1, status=503, text="CUDA out of memory") as (address, asked), pytest.raises(InstrumentError):
        take(address)
    assert len(asked) == 1
    assert not is_later(400, "")


@pytest.mark.parametrize(
    ("said", "pause_s"),
    [("3", 3.0), (" 0.5 ", 0.5), ("0", 0.05), (None, 0.5), ("-1", 0.5), ("nan", 0.5),
     ("Wed, 21 Oct 2026 07:28:00 GMT", 0.5)],
)  # fmt: skip
def test_a_pause_is_what_the_header_says_in_seconds_or_a_short_one(said: str | None, pause_s: float) -> None:
    assert read_pause_s(said) == pause_s


def test_how_often_turns_were_put_off_is_said() -> None:
    run = crowd(4, 2, nats=0.0)
    replies = tuple((replace(first, refusals=3), *rest) for first, *rest in run.replies)
    evidence = make_evidence(params=AgentsParams.create(agents=4, turns=2))
    answered = judge_everyone(evidence, replace(run, replies=replies))[0]
    assert answered.status is Status.PASS
    assert "HTTP 429 or 503 12 times, asked again and answered" in answered.evidence
    made = make_one_sleep(lambda at: 0, sleeps=1)
    assert "HTTP 429" not in judge_survival(made).evidence
    put_off = replace(made, sleeper=replace(made.sleeper, first=replace(made.sleeper.first, refusals=1)))
    assert "HTTP 429 or 503 1 times" in judge_survival(put_off).evidence


def test_an_agent_that_was_put_off_waited_all_the_same() -> None:
    run = crowd(4, 2, nats=0.0)
    late = tuple((first, replace(last, sent_s=0.9, refused_s=5.0)) for first, last in run.replies)
    evidence = make_evidence(params=AgentsParams.create(agents=4, turns=2, wake_p99_s=2.0, load_limit=1e9))
    found = {row.name: row for row in judge_everyone(evidence, replace(run, replies=late))}
    assert found["wake_p99"].observed == pytest.approx(5.1)


def test_a_wake_that_was_put_off_is_neither_soon_nor_the_servers_delay() -> None:
    made = make_one_sleep(lambda at: 0, sleeps=1)
    sleep = made.sleeper.sleeps[0]
    put_off = replace(sleep.reply, sent_s=sleep.reply.sent_s + 3, token_at_s=(sleep.woken_s + 3.1,), refused_s=3.0)
    sleeps = (replace(sleep, reply=put_off),)
    delay = replace(made, sleeper=replace(made.sleeper, sleeps=sleeps)).wake_delay()
    assert delay is not None
    assert delay.within(1.0) is None
    assert delay.within(4.0) == delay.most_s


@pytest.mark.parametrize("adapter", ["none", "signal"])
def test_agents_whose_turns_were_not_answered_are_no_second_fail(adapter: str) -> None:
    run = crowd(4, 3, nats=0.0)
    cut = replace(run, replies=(run.replies[0][:1], *run.replies[1:]), errors=("agent 0: HTTP 429",))
    evidence = make_evidence(params=AgentsParams.create(agents=4, turns=3, adapter=adapter))
    found = {row.name: row for row in judge_everyone(evidence, cut)}
    assert found["crowd_answered"].status is Status.FAIL
    assert found["crowd_texts_equal_twins"].status is Status.INCONCLUSIVE
    assert "of agents 0 not every turn was answered" in found["crowd_texts_equal_twins"].reason
    wrong = replace(cut, replies=(cut.replies[0], run.replies[2], *cut.replies[2:]))
    row = {row.name: row for row in judge_everyone(evidence, wrong)}["crowd_texts_equal_twins"]
    assert (row.status, row.observed) == (Status.FAIL, 1)


def test_a_request_that_any_2xx_answers_is_answered() -> None:
    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.answer(204 if self.path.startswith("/v1/sessions/a/") else 200, "")

        def do_DELETE(self) -> None:
            self.answer(200, "")

    async def ask(asking: AgentClient) -> None:
        async with contextlib.aclosing(asking):
            await asking.sleep("a")
            await asking.sleep("b")
            await asking.close("a")

    with listening(Handler) as address:
        asyncio.run(ask(connect("signal", address)))
