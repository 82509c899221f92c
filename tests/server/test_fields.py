"""What OpenAI's client may send unchanged is taken, and what the server does not do is refused with a remedy."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from djinn_checks.engine.turn import Token, TurnRequest
from tests.server.fake_engine import FakeEngine, application, call, tiny, turn_end

MODEL = tiny()
PLAIN: dict[str, Any] = {"prompt": "x"}


def send(content: bytes) -> tuple[int, Any, list[TurnRequest]]:
    engine = FakeEngine([Token(id=1), turn_end("length")])

    async def ask() -> Any:
        async with call(application(engine, MODEL)) as http:
            return await http.post("/v1/completions", content=content, headers={"content-type": "application/json"})

    answer = asyncio.run(ask())
    return answer.status_code, answer.json(), engine.asked


def ask(body: Any) -> tuple[int, Any, list[TurnRequest]]:
    return send(json.dumps(body).encode())


@pytest.mark.parametrize(
    "name",
    [
        "model", "max_tokens", "temperature", "top_p", "seed", "logprobs", "stop", "stream", "stream_options",
        "agent_hint", "n", "best_of", "echo", "suffix", "frequency_penalty", "presence_penalty", "logit_bias", "user",
    ],
)  # fmt: skip
def test_null_is_the_same_as_leaving_a_field_out(name: str) -> None:
    seed = {} if name == "seed" else {"seed": 3}
    status, _, asked = ask(PLAIN | seed | {name: None})
    assert status == 200
    if seed:
        assert asked == ask(PLAIN | seed)[2]


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "best_of": 1, "echo": False, "suffix": ""},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}},
        {"user": "someone", "seed": -1},
        {"stream_options": {"include_obfuscation": False}},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        {"cache_salt": "a", "session_id": "b", "return_token_ids": True, "ignore_eos": True, "min_tokens": 2},
        {"agent_hint": {"session_id": "a", "expected_idle_s": 30, "priority": {"class": "low"}}},
    ],
)
def test_what_asks_for_nothing_is_taken(fields: dict[str, Any]) -> None:
    assert ask(PLAIN | fields)[0] == 200


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"n": 2}, "n: Input should be 1, got 2; send a request for each"),
        ({"n": True}, "n: Input should be 1, got True"),
        ({"best_of": 3}, "best_of: Input should be 1, got 3; "),
        ({"echo": True}, "echo: Input should be false, got True; "),
        ({"suffix": "end"}, "suffix: Input should be \"\", got 'end'; "),
        ({"frequency_penalty": 0.5}, "frequency_penalty: Input should be 0, got 0.5; use temperature"),
        ({"presence_penalty": -1}, "presence_penalty: Input should be 0, got -1; use temperature"),
        ({"logit_bias": {"50256": -100}}, "logit_bias: Input should be {}, got {'50256': -100}; "),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["12", "34"]}, "prompt: Input should be one text or one list of token ids, got a list of 2; send"),
        ({"prompt": [[1], [2]]}, "prompt: Input should be one text or one list of token ids, got a list of 2; send"),
        ({"prompt": [1, "2"]}, "prompt.ids.1: Input should be a valid integer"),
        ({"prompt": [True]}, "prompt.ids.0: Input should be a valid integer"),
        ({"prompt": [1.0]}, "prompt.ids.0: Input should be a valid integer"),
        ({"agent_hint": {"session_id": None}}, "agent_hint.session_id: Input should be a valid string"),
        ({"agent_hint": {"session_id": ".."}}, "not dots alone, which a URL cannot name, got '..'; give the session"),
    ],
)
def test_what_is_not_done_here_is_refused_with_the_field_and_the_remedy(fields: dict[str, Any], says: str) -> None:
    status, body, asked = ask(PLAIN | fields)
    assert (status, asked) == (400, [])
    assert says in body["error"]["message"]


def test_a_list_with_one_prompt_is_that_prompt() -> None:
    for prompt in ("12", [1, 2]):
        assert ask({"prompt": [prompt]})[2][0].prompt == ask({"prompt": prompt})[2][0].prompt


def test_a_field_whose_name_no_text_can_hold_is_ignored_or_refused_like_any_other() -> None:
    assert send(b'{"prompt": "x", "stream_options": {"\\ud800": 1}}')[0] == 200
    status, body, _ = send(b'{"prompt": "x", "logit_bias": {"\\ud800": 1}}')
    assert status == 400
    assert body["error"]["message"].startswith("logit_bias")


def test_very_many_wrong_token_ids_are_one_complaint() -> None:
    status, body, _ = ask({"prompt": [-1] * 900_000})
    assert status == 400
    assert body["error"]["message"].count("prompt") == 1


@pytest.mark.parametrize("stop", ["x" * 300_000, ["x" * 75_000] * 4, ["x"] * 100_000, ["x"] * 5, "x" * 1001])
def test_stop_texts_that_would_hold_everybody_up_are_refused_at_once(stop: Any) -> None:
    status, answer, _ = ask(PLAIN | {"stop": stop})
    said = answer["error"]["message"]
    assert status == 400
    assert "stop: Input should be at most 4 texts of at most 1,000 characters each" in said
    assert len(said) < 500
    assert spend(PLAIN | {"stop": stop}) - spend(PLAIN | {"stop": ["x"]}) < 0.05


def spend(body: dict[str, Any]) -> float:
    """Return the processor's seconds that a request takes, the least of three: others use the process meanwhile."""
    seconds = []
    for _ in range(3):
        started = time.process_time()
        ask(body)
        seconds.append(time.process_time() - started)
    return min(seconds)


@pytest.mark.parametrize("stop", ["x" * 1000, ["x" * 1000] * 4, ["x", ""], []])
def test_as_many_and_as_long_stop_texts_as_are_looked_for_are_taken(stop: Any) -> None:
    assert ask(PLAIN | {"stop": stop})[0] == 200
