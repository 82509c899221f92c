"""What a server lists of its sessions is believed if it is such a list, and what it leaves out is unknown."""

from __future__ import annotations

import asyncio
import contextlib
import json
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from djinn_checks.checks.agents.connect import connect
from djinn_checks.checks.agents.reply import SessionRecord
from djinn_checks.checks.agents.session_list import STATES, UNSAID, read_list, read_record, why_unknown
from djinn_checks.errors import InstrumentError
from tests.checks.agents.fake_vllm import Quiet, listening


def test_what_a_session_does_not_say_is_unknown() -> None:
    (entry,) = read_list({"sessions": [{"id": "a", "swaps": 2, "digest_in": None, "more": []}]}).values()
    assert read_record(entry) == SessionRecord(swaps=2)
    assert read_list({"sessions": []}) == {}


@pytest.mark.parametrize(
    "said", [[{"id": "a"}], {}, {"sessions": {"a": {}}}, {"sessions": ["a"]}, {"sessions": [{"state": "IDLE"}]}]
)
def test_what_is_no_list_of_sessions_is_refused(said: Any) -> None:
    with pytest.raises(InstrumentError, match='expected {"sessions": .*, got '):
        read_list(said)


@pytest.mark.parametrize(("name", "value"), [("swaps", "2"), ("state", 3), ("restore_s", [1.0]), ("restores", True)])
def test_what_is_of_another_kind_is_named(name: str, value: object) -> None:
    with pytest.raises(InstrumentError, match=f"session 'a': {name}: expected a .* or null, got "):
        read_list({"sessions": [{"id": "a", name: value}]})


def test_states_that_are_not_known_are_named() -> None:
    assert why_unknown(STATES) == ""
    assert "they are cold, hot" in why_unknown(["hot", "IDLE", "cold"])
    assert "gives no state" in why_unknown([UNSAID, "IDLE"])


@pytest.mark.parametrize("adapter", ["idle", "signal"])
def test_a_server_that_lists_otherwise_is_refused_before_it_is_asked_anything(adapter: str) -> None:
    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, json.dumps([{"id": "a"}]))

    async def find(address: str) -> None:
        async with contextlib.aclosing(connect(adapter, address)) as client:
            await client.find_routes()

    with listening(Handler) as address, pytest.raises(InstrumentError, match="/v1/sessions: a list of sessions"):
        asyncio.run(find(address))


def test_a_session_without_a_state_is_listed_all_the_same() -> None:
    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, json.dumps({"sessions": [{"id": "a"}, {"id": "b", "state": "IDLE"}]}))

    async def states(address: str) -> dict[str, str] | None:
        async with contextlib.aclosing(connect("idle", address)) as client:
            return await client.states()

    with listening(Handler) as address:
        assert asyncio.run(states(address)) == {"a": UNSAID, "b": "IDLE"}
