"""A prompt that is too long costs little, and no prompt holds up the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from djinn_checks.errors import RequestError
from djinn_checks.models.open import Model
from djinn_checks.server.prompts import Prompts
from djinn_checks.server.text_bound import TextBound, text_bound
from tests.server.fake_engine import tiny
from tests.server.tokenizers import LLAMA_LIKE, bytes_or_pairs, smollm2


@cache
def longest() -> list[str]:
    """Return the longest pieces of the vocabulary, the very longest last."""
    vocabulary = smollm2().tokenizer.get_vocab()  # type: ignore[union-attr]
    return [smollm2().decode([vocabulary[piece]]) or "" for piece in sorted(vocabulary, key=len)[-40:]]


def read(model: Model, prompt: str | list[int], max_tokens: int, session_tokens: int = 200) -> tuple[int, ...]:
    return asyncio.run(Prompts(model, session_tokens=session_tokens).read(prompt, max_tokens))


@cache
def bounds() -> list[tuple[Any, TextBound | None]]:
    return [(tokenizer, text_bound(tokenizer)) for tokenizer in (smollm2().tokenizer, LLAMA_LIKE)]


PIECES = st.deferred(lambda: st.sampled_from([*longest(), "<|im_start|>", "é", "你好", "🦊"]))


@settings(max_examples=300)
@given(st.lists(PIECES | st.text(max_size=30), max_size=20))
@example(["\x04\x06" * 50, "x"])
@example(["\U00040000" * 50])
def test_a_text_is_never_beyond_the_tokens_that_it_comes_to(parts: list[str]) -> None:
    text = "".join(parts)
    for tokenizer, bound in bounds():
        assert bound is not None
        assert not bound.is_beyond(text, len(tokenizer(text)["input_ids"]))  # type: ignore[misc]


def test_the_bound_is_the_longest_token_s() -> None:
    assert text_bound(smollm2().tokenizer) == TextBound(
        characters=max(map(len, smollm2().tokenizer.get_vocab())),  # type: ignore[union-attr]
        dropped="\x04\x06\x13\x14\x16\x1d",
    )
    assert text_bound(LLAMA_LIKE) == TextBound(characters=len("<0x00>"))
    assert text_bound(bytes_or_pairs(normalizer=normalizers.NFC())) == TextBound(characters=4 * len("<0x00>"))


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": normalizers.Strip()},
        {"normalizer": normalizers.Replace("long", "l")},
        {"pre_tokenizer": pre_tokenizers.WhitespaceSplit()},
        {"pre_tokenizer": pre_tokenizers.Split(" ", "removed")},
        {"byte_fallback": False},
    ],
)
def test_there_is_no_bound_where_a_token_may_cover_any_number_of_characters(parts: dict[str, Any]) -> None:
    assert text_bound(bytes_or_pairs(**parts)) is None


def test_a_prompt_that_cannot_fit_is_refused_without_being_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(*_: object) -> list[int]:
        raise AssertionError("encoded")

    monkeypatch.setattr(Model, "encode", encode)
    prompt = "hello world, this is text. " * 140_000
    for model in (smollm2(), tiny()):
        with pytest.raises(RequestError, match="--session-tokens"):
            read(model, prompt, 16, session_tokens=8192)
        with pytest.raises(RequestError, match="--session-tokens"):
            read(model, "x", 8192, session_tokens=8192)


def test_a_prompt_fits_exactly_or_is_one_token_too_long() -> None:
    text = longest()[-1] * 8
    count = len(smollm2().encode(text, 10_000))
    assert len(read(smollm2(), text, 10, session_tokens=count + 10)) == count
    with pytest.raises(RequestError, match="--session-tokens"):
        read(smollm2(), text, 10, session_tokens=count + 9)


def test_the_event_loop_goes_on_while_a_prompt_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    looped = threading.Event()

    def encode(*_: object) -> list[int]:
        assert looped.wait(10), "the event loop stood still"
        return [1]

    monkeypatch.setattr(Model, "encode", encode)

    async def both() -> tuple[int, ...]:
        reading = asyncio.ensure_future(Prompts(tiny(), session_tokens=200).read("x", 16))
        await asyncio.sleep(0.01)
        looped.set()
        return await reading

    assert asyncio.run(both()) == (1,)


def test_the_longest_prompts_that_are_encoded_leave_the_event_loop_its_turns() -> None:
    prompts = Prompts(smollm2(), session_tokens=8192)
    bound = text_bound(smollm2().tokenizer)
    assert bound is not None
    text = ("hello world, this is text. " * 40_000)[: bound.characters * (8192 - 16)]

    async def slowest_turn() -> tuple[float, float]:
        started = time.monotonic()
        reading = asyncio.ensure_future(prompts.read(text, 16))
        slowest = 0.0
        while not reading.done():
            before = time.monotonic()
            await asyncio.sleep(0.001)
            slowest = max(slowest, time.monotonic() - before)
        assert isinstance(reading.exception(), RequestError)
        return slowest, time.monotonic() - started

    slowest, whole = asyncio.run(slowest_turn())
    assert slowest < whole / 2
