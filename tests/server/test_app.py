"""Every answer of the application is one that it declares, whatever its engine does and whenever its client leaves."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI

from djinn_checks.engine.turn import Token
from djinn_checks.server import completions
from tests.server.fake_engine import FakeEngine, application, call, tiny, turn_end

SECRET = "swordfish"


def post(app: FastAPI, **body: Any) -> Any:
    async def ask() -> Any:
        async with call(app) as http:
            return await asyncio.wait_for(http.post("/v1/completions", json={"prompt": "x", **body}), 10)

    return asyncio.run(ask())


def get_health(engine: FakeEngine) -> Any:
    async def ask() -> Any:
        async with call(application(engine)) as http:
            return await http.get("/health")

    return asyncio.run(ask())


@pytest.mark.parametrize("stream", [False, True])
def test_a_defect_is_a_500_in_the_declared_form_and_only_its_kind_and_place_are_logged(
    stream: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(**_: object) -> None:
        raise ZeroDivisionError(f"while answering {SECRET}")

    monkeypatch.setattr(completions, "TurnRequest", broken)
    answer = post(application(FakeEngine()), stream=stream, prompt=SECRET)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "ZeroDivisionError at" in caplog.text
    assert "test_app.py" in caplog.text
    assert SECRET not in caplog.text + answer.text


def test_an_error_of_an_unexpected_kind_from_the_engine_is_the_same_500() -> None:
    answer = post(application(FakeEngine([ValueError("anything")])))
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")


def test_a_session_that_another_closes_in_the_middle_is_a_409_and_never_a_cut_text() -> None:
    app = application(FakeEngine([Token(id=1), turn_end("cancelled")]))
    answer = post(app)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "session_closed")
    assert "409" in app.openapi()["paths"]["/v1/completions"]["post"]["responses"]


def test_in_a_stream_it_is_an_event() -> None:
    answer = post(application(FakeEngine([Token(id=1), turn_end("cancelled")])), stream=True)
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["error"]["code"] == "session_closed"
    assert not any('"finish_reason":"stop"' in event for event in events)


def test_after_a_stop_text_the_turn_is_ended_and_its_usage_and_timings_are_told() -> None:
    engine = FakeEngine([Token(id=1), Token(id=2), Token(id=3)])
    answer = post(application(engine), stop=[" 2"]).json()
    assert answer["choices"][0] == {"index": 0, "text": " 1", "token_ids": [1, 2], "finish_reason": "stop"}
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 7
    assert answer["timings"]["decode_s"] == 0.5
    assert len(engine.cancelled) == 1


def test_a_stop_text_in_the_last_token_that_was_asked_for_is_a_stop_and_cancels_nothing_that_has_ended() -> None:
    engine = FakeEngine([Token(id=1), turn_end("length", reused_tokens=3)])
    answer = post(application(engine), stop=" 1", max_tokens=1).json()
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_first_token_ends_its_turn(stream: bool) -> None:
    engine = FakeEngine()
    body = json.dumps({"prompt": "x", "stream": stream}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
    scope = {
        "type": "http", "method": "POST", "path": "/v1/completions", "raw_path": b"/v1/completions", "root_path": "",
        "query_string": b"", "headers": [(b"content-type", b"application/json")], "asgi": {"spec_version": "2.3"},
    }  # fmt: skip

    async def receive() -> Any:
        return messages.pop(0) if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        pass

    asyncio.run(asyncio.wait_for(application(engine)(scope, receive, send), 10))
    assert len(engine.cancelled) == len(engine.asked) == 1


def test_health_is_503_once_the_engine_has_ended() -> None:
    engine = FakeEngine()
    assert get_health(engine).status_code == 200
    engine.failure = RuntimeError(SECRET)
    answer = get_health(engine)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_failed")
    assert "RuntimeError" in answer.text
    assert SECRET not in answer.text


def test_likely_tokens_of_the_same_text_are_all_told() -> None:
    alike = ((1, -0.5), (2, -0.7), (3, -0.9))
    engine = FakeEngine([Token(id=1, logprob=-0.5, top=alike), turn_end("length")])
    model = dataclasses.replace(tiny(), tokenizer=SimpleNamespace(decode=lambda ids: "a" * len(ids)))
    (told,) = post(application(engine, model), prompt=[1], logprobs=3).json()["choices"][0]["logprobs"]["top_logprobs"]
    assert told == {"a": -0.5, "token_id:2": -0.7, "token_id:3": -0.9}
