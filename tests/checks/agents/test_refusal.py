"""What a server refuses for reasons of its own is said with what helps, and is no agent that was lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
import torch

from djinn_checks.checks.agents.connect import connect
from djinn_checks.checks.agents.refusal import KEY_VARIABLE
from djinn_checks.checks.agents.reply import Reply
from djinn_checks.checks.agents.scripts import write_script
from djinn_checks.checks.agents.sleeper import run_sleeper
from djinn_checks.errors import AgentLostError, DjinnChecksError, InstrumentError
from djinn_checks.models.open import open_model
from tests.checks.agents.fake_vllm import Quiet, listening

Answer = tuple[int, str]
YES = 'data: {"choices": [{"text": " yes", "token_ids": [5], "logprobs": {"token_logprobs": [-0.5]}}]}\n\n'


@contextlib.contextmanager
def serve(answer: Callable[[dict[str, Any], dict[str, str]], Answer]) -> Iterator[str]:
    """Serve what a function of body and headers says, with two models."""

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, '{"data": [{"id": "embeddings"}, {"id": "chat"}]}')

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, text = answer(body, dict(self.headers))
            if status not in range(300, 400):
                self.answer(status, text)
                return
            self.send_response(status)
            self.send_header("Location", text)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with listening(Handler) as address:
        yield address


def ask(address: str, adapter: str = "none") -> Reply:
    async def take() -> Reply:
        async with contextlib.aclosing(connect(adapter, address)) as client:
            return await client.turn("a", [1, 2], 1)

    return asyncio.run(take())


def refused(answer: Answer) -> str:
    """Return what is said of a server that gives this answer."""
    with serve(lambda body, headers: answer) as address, pytest.raises(InstrumentError) as caught:
        ask(address)
    return str(caught.value)


def sleep_once(address: str) -> None:
    model = open_model("random:tiny", dtype=torch.float32, device=torch.device("cpu"))
    scripts = [write_script(model, number=number, tokens=20, turns=2, seed=0) for number in (0, 1)]

    async def run() -> None:
        async with contextlib.aclosing(connect("none", address)) as client:
            await run_sleeper(client, model, *scripts, new_tokens=1, sleep_s=0.01)

    asyncio.run(run())


def refuse_strangers(body: dict[str, Any], headers: dict[str, str]) -> Answer:
    given = headers.get("Authorization", "")
    return (200, YES) if given == "Bearer sesame" else (401, f"wrong key: {given}")


def test_the_key_of_the_environment_is_given_and_never_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(refuse_strangers) as address:
        monkeypatch.delenv(KEY_VARIABLE, raising=False)
        with pytest.raises(InstrumentError, match=f"HTTP 401: .*a key that it takes is not given: {KEY_VARIABLE}"):
            ask(address)
        monkeypatch.setenv(KEY_VARIABLE, "abracadabra")
        with pytest.raises(InstrumentError, match=f"is another one than {KEY_VARIABLE}") as caught:
            ask(address)
        assert "abracadabra" not in str(caught.value)
        monkeypatch.setenv(KEY_VARIABLE, "sesame")
        assert ask(address).text == " yes"


@pytest.mark.parametrize("error", ['{"error": "key KEY is old"}', '{"object": "error", "message": "KEY"}', "KEY"])
def test_a_key_that_is_repeated_in_an_answer_is_not_told(error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "abracadabra")
    said = refused((200, f"data: {error.replace('KEY', 'abracadabra')}\n\n"))
    assert KEY_VARIABLE in said
    assert "abracadabra" not in said


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((307, "https://elsewhere.example/v1/completions"), "it sends on to https://elsewhere.example/v1/completions"),
        ((404, "Not Found"), "a server with chat completions alone cannot be checked"),
        ((400, "no such task"), "asked was 'embeddings', the first of its models: embeddings, chat; name another one"),
    ],
)
def test_a_refusal_says_what_helps(answer: Answer, said: str) -> None:
    assert said in refused(answer)


def test_log_probabilities_that_a_server_breaks_over_are_left_out() -> None:
    def answer(body: dict[str, Any], headers: dict[str, str]) -> Answer:
        return (500, "logprobs is not supported here") if "logprobs" in body else (200, YES)

    with serve(answer) as address:
        assert ask(address).text == " yes"


@pytest.mark.parametrize(
    "event",
    [
        {"choices": "yes"},
        {"choices": [{"text": 3}]},
        {"choices": [{"text": "a", "token_ids": 5}]},
        {"choices": [{"text": "a", "logprobs": [1]}]},
        {"choices": [], "usage": [3]},
        {"choices": [], "timings": [3]},
    ],
)
def test_an_event_of_another_shape_is_told_and_crashes_nothing(event: dict[str, Any]) -> None:
    said = refused((200, f"data: {json.dumps(event)}\n\n"))
    assert "expected an event as in OpenAI's completions, got" in said


def test_runners_up_in_pairs_are_none_and_no_defect() -> None:
    event = {"choices": [{"text": "a", "logprobs": {"token_logprobs": [-1.0], "top_logprobs": [[[5, -1.0]]]}}]}
    with serve(lambda body, headers: (200, f"data: {json.dumps(event)}\n\n")) as address:
        reply = ask(address)
    assert (reply.logprobs, reply.runners_up) == ((-1.0,), ())


@pytest.mark.parametrize(("forgets", "lost"), [(False, InstrumentError), (True, AgentLostError)])
def test_what_is_refused_of_a_session_that_never_slept_was_lost_in_no_sleep(
    forgets: bool, lost: type[DjinnChecksError]
) -> None:
    """A server with a short context refuses the second turn of any session; one that forgets, of those that slept."""
    turns: list[int] = []

    def answer(body: dict[str, Any], headers: dict[str, str]) -> Answer:
        turns.append(len(body["prompt"]))
        is_refused = len(turns) == 2 if forgets else len(body["prompt"]) > 20
        return (400, "maximum context length is 20 tokens") if is_refused else (200, YES)

    with serve(answer) as address, pytest.raises(lost, match="maximum context length"):
        sleep_once(address)


@pytest.mark.parametrize(
    "event",
    [
        {"object": "error", "message": "CUDA out of memory", "code": 500},
        {"choices": [{"text": "", "finish_reason": "abort"}]},
    ],
)
def test_an_answer_that_breaks_off_is_none(event: dict[str, Any]) -> None:
    assert "in the middle of an answer: " in refused((200, f"{YES}data: {json.dumps(event)}\n\n"))


def test_log_probabilities_in_quotes_are_numbers() -> None:
    told = YES.replace("[-0.5]", '["-0.5"]')
    with serve(lambda body, headers: (200, told)) as address:
        assert ask(address).logprobs == (-0.5,)


def test_an_error_under_200_is_a_refusal_in_the_servers_words() -> None:
    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(404, "{}")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            text = '{"error": "Unexpected endpoint"}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

    with listening(Handler) as address, pytest.raises(InstrumentError, match="HTTP 200, and in it: Unexpected end"):
        ask(address)


def test_a_server_that_dies_in_its_first_sleep_has_lost_the_agent() -> None:
    turns: list[int] = []

    def answer(body: dict[str, Any], headers: dict[str, str]) -> Answer:
        turns.append(1)
        return (200, YES) if len(turns) == 1 else (200, "")

    with serve(answer) as address, pytest.raises(AgentLostError, match="lost in the first sleep"):
        sleep_once(address)


def test_an_accident_at_the_first_request_moves_no_run_to_texts() -> None:
    asked: list[Any] = []

    def answer(body: dict[str, Any], headers: dict[str, str]) -> Answer:
        asked.append(body["prompt"])
        return (500, "it was nothing") if len(asked) == 1 else (200, YES)

    with serve(answer) as address:
        assert ask(address).text == " yes"
    assert len(asked) == 2
    assert asked[0] == asked[1]
    assert isinstance(asked[1], list)


def test_slots_of_another_shape_are_told() -> None:
    said = r"/slots: expected a list of slots, each with its id, got {'data'"
    with serve(lambda body, headers: (200, YES)) as address, pytest.raises(InstrumentError, match=said):
        ask(address, "slot")


def test_an_accident_after_the_first_answer_is_not_asked_again() -> None:
    asked: list[Any] = []

    def answer(body: dict[str, Any], headers: dict[str, str]) -> Answer:
        asked.append(body)
        return (500, "it crashed") if len(asked) == 2 else (200, YES)

    async def take(address: str) -> None:
        async with contextlib.aclosing(connect("none", address)) as client:
            await client.turn("a", [1, 2], 1)
            with pytest.raises(InstrumentError, match="HTTP 500: it crashed"):
                await client.turn("a", [1, 2], 1)

    with serve(answer) as address:
        asyncio.run(take(address))
    assert len(asked) == 2


def test_a_model_that_is_not_there_is_told_as_that() -> None:
    said = refused((404, "The model `m` does not exist."))
    assert "name one that it serves as server_model" in said
    assert "chat completions" not in said


def test_an_error_that_is_a_line_of_its_own_is_one() -> None:
    said = refused((200, YES + 'error: {"code": 500, "message": "no KV left"}\n\n'))
    assert "in the middle of an answer: " in said
    assert "no KV left" in said


def test_an_answer_ends_at_its_mark_whatever_comes_behind() -> None:
    with serve(lambda body, headers: (200, YES + "data: [DONE]\n\ndata: {broken\n\n")) as address:
        assert ask(address).text == " yes"
