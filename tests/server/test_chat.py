"""Chats over OpenAI's interface: the template makes the prompt, and what cannot be answered is said in a sentence."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI

from djinn_checks.engine.turn import Token
from djinn_checks.models.open import Model
from tests.server.fake_engine import FakeEngine, application, call, tiny, turn_end

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}


class Chatty:
    """A tokenizer of bytes with a template: each role and text in brackets; it knows no assistant that speaks first."""

    chat_template = "yes"
    backend_tokenizer = None

    def apply_chat_template(
        self, messages: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert (tokenize, add_generation_prompt) == (False, True)
        if messages[0]["role"] == "assistant":
            raise ValueError("roles must\nalternate")
        return "".join(f"[{message['role']}:{message['content']}]" for message in messages) + "[assistant:"

    def __call__(self, text: str, **options: bool) -> dict[str, list[int]]:
        assert options == {"add_special_tokens": False}
        return {"input_ids": list(text.encode())}

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


def chatty() -> Model:
    return dataclasses.replace(tiny(), name="chatty", tokenizer=Chatty())


def post(app: FastAPI, body: Any, path: str = "/v1/chat/completions") -> Any:
    async def ask() -> Any:
        async with call(app) as http:
            return await asyncio.wait_for(http.post(path, json=body), 10)

    return asyncio.run(ask())


def answering(*events: Any) -> tuple[FakeEngine, FastAPI]:
    engine = FakeEngine(events or [Token(id=72), Token(id=105), turn_end("stop", reused_tokens=3)])
    return engine, application(engine, chatty())


def test_a_chat_is_answered_with_what_the_template_made_of_it() -> None:
    engine, app = answering()
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}]
    answer = post(app, {"model": "chatty", "messages": messages, "max_completion_tokens": 9, "seed": 3}).json()
    assert bytes(engine.asked[0].prompt) == b"[system:be brief][user:ab][assistant:"
    assert (engine.asked[0].max_tokens, engine.asked[0].seed) == (9, 3)
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ]
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 3


def test_a_stream_says_who_speaks_then_what_then_why_it_ends() -> None:
    engine, app = answering()
    told = post(app, HELLO | {"stream": True, "stream_options": {"include_usage": True}}).text
    *events, end = [line[6:] for line in told.splitlines() if line.startswith("data: ")]
    chunks = [json.loads(event) for event in events]
    assert end == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk["choices"][0]["delta"] for chunk in chunks[:-1]] == [
        {"role": "assistant", "content": ""}, {"content": "H"}, {"content": "i"}, {},
    ]  # fmt: skip
    assert [chunk["choices"][0].get("finish_reason") for chunk in chunks[:-1]] == [None, None, None, "stop"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 2
    assert engine.asked[0].max_tokens == 200 - len(engine.asked[0].prompt), "what the session has room for"


@pytest.mark.parametrize(
    ("body", "status", "says", "param"),
    [
        (HELLO | {"model": "gpt-4"}, 404, "model: 'gpt-4' is not served here; expected 'chatty'", "model"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "refuses them: roles must alternate", "messages"),
        ({"messages": []}, 400, "messages: List should have at least 1 item", "messages"),
        ({}, 400, "messages: Field required, and it is missing", "messages"),
        (HELLO | {"logprobs": True}, 400, "logprobs: Input should be false, got True; ask /v1/completions", "logprobs"),
        (HELLO | {"tools": [{"type": "function"}]}, 400, "the server calls none", "tools"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            400, "the model reads text alone", "messages.0.content",
        ),
        ({"messages": [{"role": "user", "content": [{"type": {}}]}]}, 400, "text alone", "messages.0.content"),
        ({"messages": [{"role": "user", "content": []}]}, 400, "text alone", "messages.0.content"),
        (HELLO | {"max_tokens": 1000}, 400, "--session-tokens", "prompt"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_in_a_sentence(body: Any, status: int, says: str, param: str) -> None:
    engine, app = answering()
    for stream in (False, True):
        answer = post(app, body | {"stream": stream})
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["param"]) == (status, "invalid_request_error", param)
        assert says in error["message"]
    assert engine.asked == []


def test_a_model_without_a_template_says_where_to_ask_instead() -> None:
    plain = dataclasses.replace(tiny(), tokenizer=SimpleNamespace(chat_template=None))
    for model in (tiny(), plain):
        answer = post(application(FakeEngine(), model), HELLO)
        assert answer.status_code == 400
        assert "has no chat template; send a prompt to /v1/completions" in answer.json()["error"]["message"]


def test_a_wrong_model_is_a_404_of_completions_too_and_its_own_name_or_none_is_taken() -> None:
    app = application(FakeEngine([Token(id=1), turn_end("length")]))
    wrong = post(app, {"prompt": "x", "model": "any"}, "/v1/completions")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (404, "model_not_found")
    assert "expected 'random:tiny'" in wrong.json()["error"]["message"]
    for name in ("random:tiny", "", None):
        assert post(app, {"prompt": "x", "model": name}, "/v1/completions").status_code == 200


def test_a_route_that_is_not_there_says_what_is() -> None:
    app = application(FakeEngine())
    missing = post(app, {}, "/v1/complete")
    assert missing.status_code == 404
    assert missing.json()["error"]["message"] == "POST '/v1/complete': no such route; /docs lists what there is"
    assert "does not take this method" in post(app, {}, "/health").json()["error"]["message"]


def test_the_page_of_the_routes_names_all_of_them_and_asks_nobody_for_anything() -> None:
    app = application(FakeEngine())

    async def read() -> Any:
        async with call(app) as http:
            return await http.get("/docs")

    page = asyncio.run(read())
    assert page.status_code == 200
    for path in app.openapi()["paths"]:
        assert path in page.text
    assert "max_completion_tokens" in page.text
    assert not any(sign in page.text for sign in ("<script", "http://", "https://", "<link", "src="))
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
