"""A stream is read as servers really write it, and what they leave out is unknown."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from djinn_checks.checks.agents.answer_distance import differing_tokens, distance
from djinn_checks.checks.agents.reply import Reply, Sources
from djinn_checks.checks.agents.streams import Parts, parse_event, read_events, read_llama, read_openai
from djinn_checks.errors import InstrumentError


def events_of(body: bytes, cuts: list[int]) -> list[str]:
    async def chunks() -> AsyncIterator[bytes]:
        places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
        for start, end in pairwise(places):
            yield body[start:end]

    async def read() -> list[str]:
        return [data async for data in read_events(chunks())]

    return asyncio.run(read())


def reply_to(*events: dict[str, Any]) -> Reply:
    parts = Parts(0.0)
    for event in events:
        read_openai(parts, parse_event(json.dumps(event)))
    return parts.reply()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(), max_size=4), st.lists(st.integers(0, 10**6), max_size=5), st.booleans(), st.booleans())
def test_events_are_the_same_however_the_body_is_cut_and_the_lines_are_written(
    texts: list[str], cuts: list[int], space: bool, windows: bool
) -> None:
    told = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    end = "\r\n" if windows else "\n"
    lines = [f"data:{' ' if space else ''}{data}{end}{end}" for data in told]
    body = "".join([f": a comment{end}", *lines, f"data: [DONE]{end}{end}"]).encode(errors="replace")
    assert [json.loads(data) for data in events_of(body, cuts)] == [
        {"text": text.encode(errors="replace").decode()} for text in texts
    ]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 10**6), max_size=5))
def test_an_event_may_have_its_data_on_several_lines_and_may_have_no_blank_line_behind_it(cuts: list[int]) -> None:
    told = [{"choices": [{"text": "a"}]}, {"usage": {"prompt_tokens": 3}}]
    written = [json.dumps(event, indent=1).splitlines() for event in told]
    several = "".join("".join(f"data: {line}\n" for line in lines) + "\n" for lines in written)
    at_once = "".join(f"event: message\ndata: {json.dumps(event)}\n" for event in told)
    for body in (several, several.replace("\n", "\r\n"), at_once, at_once.rstrip("\n")):
        assert [json.loads(data) for data in events_of(body.encode(), cuts)] == told


@pytest.mark.parametrize("odd", ["\u2028", "\u0085", "\x0b", "\x1c"])
def test_what_python_takes_for_the_end_of_a_line_is_none_in_a_stream(odd: str) -> None:
    assert events_of(f'data: {{"text": "a{odd}b"}}\n\n'.encode(), []) == [f'{{"text": "a{odd}b"}}']


def test_log_probabilities_are_read_in_either_form() -> None:
    completion = {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [{"a": -1.0, "b": -2.0}]}
    top = [{"token": "a", "logprob": -1.0}, {"token": "b", "logprob": -2.0}]
    chat = {"content": [{"token": "a", "logprob": -1.0, "top_logprobs": top}]}
    as_completion, as_chat = (reply_to({"choices": [{"text": "a", "logprobs": told}]}) for told in (completion, chat))
    assert as_completion.fingerprint == as_chat.fingerprint == (-1.0, -1.0, -2.0)
    assert as_completion.tokens == as_chat.tokens == ("a",)


def test_ids_that_stand_beside_log_probabilities_are_read_if_every_place_has_one() -> None:
    places = [{"id": token, "token": "a", "logprob": -1.0, "top_logprobs": []} for token in (5, 7)]
    named = reply_to({"choices": [{"text": "aa", "logprobs": {"content": places}}]})
    assert named.ids == (5, 7)
    del places[1]["id"]
    assert reply_to({"choices": [{"text": "aa", "logprobs": {"content": places}}]}).ids == ()


def test_a_null_is_unknown_and_minus_infinity_a_number() -> None:
    told = {"token_logprobs": [None, -1.0], "top_logprobs": [None, {"a": -1.0, "b": -math.inf}]}
    reply = reply_to({"choices": [{"text": "ab", "logprobs": told}]})
    assert reply.logprobs == (None, -1.0)
    assert reply.mean_logprob == -1.0
    assert distance([reply], [reply]) == 0.0
    assert distance([reply], [Reply(logprobs=(None, -1.5), runners_up=(-1.0, -math.inf))]) == 0.5
    assert distance([reply], [Reply(logprobs=(None, -1.0), runners_up=(-1.0, -9.0))]) == math.inf
    assert distance([reply], [Reply(logprobs=(-1.0, -1.0), runners_up=(-1.0, -math.inf))]) is None
    assert distance([Reply(logprobs=(None,))], [Reply(logprobs=(None,))]) is None


def test_halves_of_a_character_are_joined_and_a_half_alone_can_be_written_down() -> None:
    assert reply_to({"choices": [{"text": "a\ud83d"}]}, {"choices": [{"text": "\ude00b"}]}).text == "a😀b"
    lone = reply_to({"choices": [{"text": "a\ud83d"}]}).text
    assert lone.startswith("a")
    assert lone.encode()


def test_an_answer_that_says_nothing_equals_nothing() -> None:
    assert differing_tokens([Reply()], [Reply()]) is None
    assert differing_tokens([Reply(text="a")], [Reply(text="b")]) == 1
    assert differing_tokens([Reply(ids=(1, 2))], [Reply(ids=(1, 3))]) == 1


def test_where_tokens_came_from_is_read_of_sglangs_details() -> None:
    event = {"choices": [], "sglext": {"cached_tokens_details": {"device": 3, "host": 5}}}
    reply = reply_to({"choices": [{"text": "a"}]}, event)
    assert reply.sources == Sources(device=3, host=5)
    assert reply.sources.total is None


def test_llama_servers_text_without_tokens_counts_as_an_answer() -> None:
    parts = Parts(0.0)
    read_llama(parts, {"content": "a", "completion_probabilities": [{"logprob": None, "top_logprobs": None}]})
    assert (parts.reply().text, parts.reply().logprobs) == ("a", (None,))


@pytest.mark.parametrize("data", ["{", "[]", '{"error": {"message": "out of memory"}}'])
def test_what_is_no_part_of_an_answer_breaks_it_off(data: str) -> None:
    with pytest.raises(InstrumentError, match="in the middle of an answer"):
        parse_event(data)
