"""A client asks each server in the form that it takes, and names the model as it knows it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from djinn_checks import AgentsParams
from djinn_checks.checks.agents.connect import connect
from djinn_checks.checks.agents.reply import Reply
from djinn_checks.errors import InstrumentError, WrongAdapterError
from tests.checks.agents.fake_vllm import Quiet, listening

OPENAI = {"model", "prompt", "max_tokens", "temperature", "stream"}


@contextlib.contextmanager
def serve_texts(*, refuses_unknown: bool, metrics: str = "") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve completions of texts alone; give the address and what was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = {"/v1/models": '{"data": [{"id": "served"}]}'} | ({"/metrics": metrics} if metrics else {})
            self.answer(200 if self.path in known else 404, known.get(self.path, "{}"))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            if not isinstance(body["prompt"], str) or (refuses_unknown and set(body) - OPENAI):
                self.answer(422, '{"detail": "unexpected"}')
            else:
                self.answer(200, 'data:{"choices": [{"text": " yes"}]}\n\ndata: [DONE]\n\n')

    with listening(Handler) as address:
        yield address, asked


def ask(address: str, *, adapter: str = "none", model: str = "", turns: int = 1, decode: Any = None) -> list[Reply]:
    async def take() -> list[Reply]:
        async with contextlib.aclosing(connect(adapter, address, model=model, decode=decode)) as client:
            await client.find_routes()
            return [await client.turn("a", [1, 2], 3) for _ in range(turns)]

    return asyncio.run(take())


@pytest.mark.parametrize("refuses_unknown", [False, True])
def test_a_server_that_takes_no_ids_is_asked_with_texts(refuses_unknown: bool) -> None:
    with serve_texts(refuses_unknown=refuses_unknown) as (address, asked):
        replies = ask(address, turns=2, decode=lambda ids: f"text of {list(ids)}")
    assert [reply.text for reply in replies] == [" yes", " yes"]
    assert asked[-1]["prompt"] == "text of [1, 2]"
    assert len(asked) == (4 if refuses_unknown else 3)  # what it takes is found out once


def test_a_server_that_takes_no_ids_needs_a_tokenizer() -> None:
    with serve_texts(refuses_unknown=False) as (address, _), pytest.raises(InstrumentError, match="has no tokenizer"):
        ask(address, decode=lambda ids: None)


@contextlib.contextmanager
def serve_choosy(refuse: Callable[[dict[str, Any]], str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve completions to whom nothing is said against; give the address and what was answered."""
    answered: list[dict[str, Any]] = []

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if said := refuse(body):
                self.answer(400, json.dumps({"error": {"message": said}}))
                return
            answered.append(body)
            self.answer(200, 'data: {"choices": [{"text": " yes"}]}\n\ndata: [DONE]\n\n')

    with listening(Handler) as address:
        yield address, answered


def test_a_field_that_the_server_names_is_left_out_before_token_ids_are() -> None:
    def refuse(body: dict[str, Any]) -> str:
        return next((f"{name} is not supported" for name in ("cache_salt", "logprobs") if name in body), "")

    async def take(address: str) -> None:
        async with contextlib.aclosing(connect("vllm", address, model="m", decode=str)) as client:
            await client.turn("a", [1, 2], 3)
            await client.turn("a", [1, 2], 3)

    with serve_choosy(refuse) as (address, answered):
        asyncio.run(take(address))
    assert len(answered) == 2
    for body in answered:
        assert body["prompt"] == [1, 2]
        assert {"return_token_ids", "stream_options"} <= set(body)
        assert not {"cache_salt", "logprobs"} & set(body)


def test_a_session_is_never_left_out() -> None:
    def refuse(body: dict[str, Any]) -> str:
        return "agent_hint: 'a' is too short" if "agent_hint" in body else ""

    with serve_choosy(refuse) as (address, answered), pytest.raises(InstrumentError, match="too short"):
        asyncio.run(connect("idle", address, model="m", decode=str).turn("a", [1], 3))
    assert not answered


@pytest.mark.parametrize("decode", [str, lambda ids: None], ids=["texts", "no texts"])
def test_what_the_server_says_against_every_form_is_told(decode: Any) -> None:
    told = "This model's maximum context length is 100 tokens"
    with serve_choosy(lambda body: told) as (address, _), pytest.raises(InstrumentError, match=told):
        ask(address, model="m", decode=decode)

    def refuse(body: dict[str, Any]) -> str:
        return told if isinstance(body["prompt"], str) else "a text is expected"

    both = f"a text is expected.*asked with a text in place of token ids.*{told}"
    with serve_choosy(refuse) as (address, _), pytest.raises(InstrumentError, match=both):
        ask(address, model="m", decode=str)


def test_an_answer_that_is_no_stream_is_said_with_what_to_do() -> None:
    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"choices": [{"text": " yes"}]}')

    told = "expected an event stream, got application/json; .* have it stream"
    with listening(Handler) as address, pytest.raises(InstrumentError, match=told):
        ask(address, model="m")


def test_a_route_that_has_moved_is_followed() -> None:
    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith("/"):
                self.answer(200, '{"data": [{"id": "served"}]}')
                return
            self.send_response(307)
            self.send_header("Location", f"{self.path}/")
            self.send_header("Content-Length", "0")
            self.end_headers()

    async def name(address: str) -> str:
        async with contextlib.aclosing(connect("none", address)) as client:
            return await client._name_model()

    with listening(Handler) as address:
        assert asyncio.run(name(address)) == "served"


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_an_address_may_end_in_v1_as_those_of_openais_clients_do(end: str) -> None:
    assert AgentsParams.create(server_address=f"http://host:1/api{end}").server_address == "http://host:1/api"


@pytest.mark.parametrize(("given", "asked_for"), [("", "served"), ("mine", "mine")])
def test_the_model_is_named_as_the_server_knows_it(given: str, asked_for: str) -> None:
    with serve_texts(refuses_unknown=False) as (address, asked):
        ask(address, model=given, decode=str)
    assert {body["model"] for body in asked} == {asked_for}


def test_a_server_with_other_metrics_is_no_vllm_and_is_told_so() -> None:
    other, told = "sglang:prompt_tokens_total 1\n", "got metrics of sglang.*give adapter .*none"
    with (
        serve_texts(refuses_unknown=False, metrics=other) as (address, _),
        pytest.raises(WrongAdapterError, match=told),
    ):
        ask(address, adapter="vllm")
    with serve_texts(refuses_unknown=False) as (address, _), pytest.raises(WrongAdapterError, match="HTTP 404"):
        ask(address, adapter="sglang")


def test_an_address_where_nobody_listens_is_said_with_what_to_do() -> None:
    async def ask() -> None:
        client = connect("none", "http://127.0.0.1:9")
        try:
            await client._call("GET", "/v1/models")
        finally:
            await client.aclose()

    with pytest.raises(InstrumentError, match=r"http://127\.0\.0\.1:9: no server answers there .*start it"):
        asyncio.run(ask())
