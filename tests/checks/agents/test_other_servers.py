"""A server of another make is accused of nothing that it never claimed, and a wrong adapter is called by its name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from djinn_checks import AgentsParams, Outcome, Status, check_agents
from djinn_checks.checks.agents.client import AgentClient
from djinn_checks.checks.agents.connect import ADAPTERS, connect
from djinn_checks.checks.agents.reply import Reply
from djinn_checks.checks.agents.scripts import write_script
from djinn_checks.checks.agents.sleeper import run_sleeper
from djinn_checks.checks.agents.unclaimed import _ABOUT_ANSWERS, skip_unclaimed
from djinn_checks.errors import InstrumentError, WrongAdapterError
from djinn_checks.models.open import open_model
from djinn_checks.outcome import Criterion, judge
from tests.checks.agents.other_server import serve_completions, serve_lists

SMALL: dict[str, Any] = {
    "model": "random:tiny", "device": "cpu", "prompt_tokens": 32, "new_tokens": 4, "sleep_s": 1.5, "sleeps": 1,
    "agents": 2, "agent_prompt_tokens": 16, "agent_new_tokens": 3, "arrival_rate": 5.0, "think_s": [0.1, 0.2],
}  # fmt: skip


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serve_completions("random:tiny") as where:
        yield where


def checked(address: str, adapter: str) -> Outcome:
    return check_agents(AgentsParams.create(**(SMALL | {"server_address": address, "adapter": adapter})))


@pytest.fixture(scope="module")
def without_sessions(address: str) -> Outcome:
    return checked(address, "none")


def test_a_server_without_sessions_is_judged_by_its_answers_and_never_passes_as_one_that_sleeps(
    without_sessions: Outcome,
) -> None:
    outcome = without_sessions
    found = {row.name: row.status for row in outcome.criteria}
    answers = ("survives_sleep", "speaks_for_model", "text_equals_twin", "coherent", "crowd_answered",
               "crowd_texts_equal_twins", "code_words_kept")  # fmt: skip
    assert {name: found[name] for name in answers} == dict.fromkeys(answers, Status.PASS)
    about_sleep = ("kv_left_device", "swaps_counted", "kv_returned", "restores_counted", "bytes_equal", "digest_equal",
                   "kv_left_soon", "woke_at_once", "closing_frees", "prefill_counted", "rounding_is_kept",
                   "crowd_overcommits", "crowd_held_at_once", "crowd_swapped", "crowd_within_budget")  # fmt: skip
    assert {name: found[name] for name in about_sleep} == dict.fromkeys(about_sleep, Status.SKIP)
    assert "has no sessions" in outcome.criterion("kv_left_device").reason
    assert outcome.status is found["sleep_claimed"] is Status.INCONCLUSIVE
    assert "nothing was judged but its answers: 7 of 7 rows about them hold" in outcome.summary


@pytest.mark.parametrize(
    ("adapter", "route", "others"),
    [("signal", "/v1/sessions", "slot or none"), ("idle", "/v1/sessions", "slot or none"),
     ("slot", "/slots", "signal or idle or none")],
)  # fmt: skip
def test_an_adapter_whose_routes_the_server_lacks_is_an_error_that_says_which_to_give(
    address: str, adapter: str, route: str, others: str
) -> None:
    outcome = checked(address, adapter)
    assert outcome.status is Status.ERROR
    assert (
        f"this server has no such route as GET {route}, expected of a server of adapter {adapter!r}" in outcome.summary
    )
    assert "HTTP 404" in outcome.summary
    named = outcome.summary.rpartition("give adapter ")[2].split(" or ")
    assert set(others.split(" or ")) <= set(named) <= set(ADAPTERS) - {adapter}


def row(name: str, observed: bool | None) -> Criterion:
    return judge(name, "", observed, "==", True, unit="", evidence="", missing="not said")


def test_what_is_wrong_with_the_answers_still_fails_a_server_without_sessions() -> None:
    rows = [row("coherent", False), row("kv_left_device", False), row("text_equals_twin", True)]
    found = {one.name: one for one in skip_unclaimed(AgentsParams.create(adapter="none"), rows)}
    assert (found["coherent"].status, found["kv_left_device"].status) == (Status.FAIL, Status.SKIP)
    assert "1 of 2 rows about them hold" in found["sleep_claimed"].reason


@pytest.mark.parametrize("adapter", [name for name, kind in ADAPTERS.items() if kind.has_sessions])
def test_a_server_with_sessions_is_held_to_every_row(adapter: str) -> None:
    rows = [row("coherent", True), row("kv_left_device", False)]
    assert skip_unclaimed(AgentsParams.create(adapter=adapter), rows) == tuple(rows)


def test_every_row_about_answers_is_one_that_the_check_has(without_sessions: Outcome) -> None:
    assert {row.name for row in without_sessions.criteria} > _ABOUT_ANSWERS


@pytest.mark.parametrize(
    ("adapter", "asked", "others"),
    [("signal", "POST /v1/sessions/a/phase", "idle"), ("slot", "POST /slots/0?action=save", "signal or idle or none")],
)
def test_a_server_that_lists_sessions_and_cannot_have_them_sleep_is_told_apart_from_one_that_loses_them(
    adapter: str, asked: str, others: str
) -> None:
    async def sleep(address: str) -> None:
        async with contextlib.aclosing(connect(adapter, address)) as client:
            await client.find_routes()
            await client.sleep("a")

    with serve_lists() as address, pytest.raises(WrongAdapterError) as caught:
        asyncio.run(sleep(address))
    assert f"this server has no such route as {asked}, expected of a server of adapter {adapter!r}" in str(caught.value)
    assert "HTTP 501: start it with what it needs" in str(caught.value)
    assert set(others.split(" or ")) <= set(str(caught.value).rpartition("give adapter ")[2].split(" or "))


def test_a_session_that_is_not_there_any_more_is_a_lost_one_and_no_wrong_adapter() -> None:
    async def sleep(address: str) -> None:
        async with contextlib.aclosing(connect("signal", address)) as client:
            await client.sleep("gone")

    with serve_lists() as address, pytest.raises(InstrumentError, match="HTTP 501"):
        asyncio.run(sleep(address))


def test_nobody_is_asked_before_the_sleeper_what_it_is_asked() -> None:
    """A server that says again what it said to the same prompt has said nothing yet."""
    asked: list[tuple[int, ...]] = []

    class Asking(AgentClient):
        async def turn(self, session: str, prompt: Sequence[int], max_tokens: int, *, logprobs: bool = True) -> Reply:
            if session == "slept":
                assert tuple(prompt) not in asked
            asked.append(tuple(prompt))
            return Reply(ids=(7,) * max_tokens, sent_s=0.0, token_at_s=(0.1,) * max_tokens)

    model = open_model("random:tiny", dtype=torch.float32, device=torch.device("cpu"))
    scripts = [write_script(model, number=number, tokens=20, turns=3, seed=0) for number in (0, 1)]

    async def run() -> int:
        async with contextlib.aclosing(Asking("http://127.0.0.1:9")) as client:
            return len((await run_sleeper(client, model, *scripts, new_tokens=2, sleep_s=0.01)).hot)

    assert asyncio.run(run()) == 3
