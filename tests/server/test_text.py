"""A text that is decoded token by token is the text of all its tokens, and costs the same for each of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from djinn_checks.server.fields import LONGEST_STOP, MOST_STOPS
from djinn_checks.server.text import Decode, TextStream
from tests.server.tokenizers import LLAMA_LIKE, smollm2

_PIECES = st.sampled_from(
    [
        "é",
        "你好",
        "🦊",
        "👩‍👩‍👧",
        "  ",
        " leading",
        "<|im_start|>",
        "<|endoftext|>",
        "\n",
        "hel",
        " hello",
        "\ufffd",
        "ab",
    ]
)
TEXTS = st.lists(_PIECES | st.text(max_size=8), max_size=12).map("".join)
STOPS = st.lists(
    st.sampled_from(["é", "你", "🦊", " le", "ab", "<|im_start|>", "hello", "\n", "d <", "lo h"]), max_size=3
)


def decode_llama_like(ids: Sequence[int]) -> str:
    return str(LLAMA_LIKE.decode(list(ids)))


def ids_of(text: str) -> list[int]:
    return smollm2().encode(text, 100_000)


def stream(decode: Decode, ids: Sequence[int], stops: Sequence[str] = ()) -> tuple[str, bool]:
    """Return the text that a stream of tokens comes to, and whether a stop text ended it."""
    text, sent = TextStream(decode, stops), []
    for one in ids:
        sent.append(text.add(one))
        if text.is_stopped:
            break
    return "".join(sent) + text.finish(), text.is_stopped


def expected(decode: Decode, ids: Sequence[int], stops: Sequence[str]) -> tuple[str, bool]:
    """The same by decoding everything for every token, looking for stop texts in complete characters only."""
    for count in range(1, len(ids) + 1):
        text = decode(ids[:count]) or ""
        is_complete = count == len(ids) or not text.endswith("\ufffd")
        found = [at for at in map(text.find, stops) if at >= 0]
        if is_complete and found:
            return text[: min(found)], True
    return decode(ids) or "", False


@settings(max_examples=300)
@given(TEXTS)
@example("👩‍👩‍👧 你好")
def test_a_text_of_the_real_tokenizer_streams_as_it_is_decoded_whole(text: str) -> None:
    assert stream(smollm2().decode, ids_of(text)) == (smollm2().decode(ids_of(text)), False)


@settings(max_examples=300)
@given(st.lists(st.integers(0, 49151) | st.integers(0, 300), max_size=40))
@example([17, 18645])  # the second one begins the character 你
def test_any_token_ids_stream_to_the_text_of_them_all(ids: list[int]) -> None:
    assert stream(smollm2().decode, ids) == (smollm2().decode(ids), False)


@settings(max_examples=300)
@given(TEXTS, STOPS)
@example("x ab你", ["ab你"])
@example("ab你 le", ["🦊", " le"])
def test_stop_texts_cut_where_they_would_cut_the_whole(text: str, stops: list[str]) -> None:
    ids = ids_of(text)
    assert stream(smollm2().decode, ids, stops) == expected(smollm2().decode, ids, stops)


@settings(max_examples=200)
@given(TEXTS, STOPS)
@example(" hello  hello 你好", [])
def test_so_do_they_with_a_tokenizer_that_drops_a_leading_space_and_falls_back_to_bytes(
    text: str, stops: list[str]
) -> None:
    ids = LLAMA_LIKE(text)["input_ids"]
    assert stream(decode_llama_like, ids, stops) == expected(decode_llama_like, ids, stops)


@settings(max_examples=300)
@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=12), st.lists(st.text("ab", max_size=5), max_size=3))
@example(["a", "ab", "aa", "b"], ["aaab", "abaa"])
def test_stop_texts_that_begin_like_themselves_are_found_where_they_are(pieces: list[str], stops: list[str]) -> None:
    def decode(ids: Sequence[int]) -> str:
        return "".join(pieces[number] for number in ids)

    ids, stops = range(len(pieces)), [stop for stop in stops if stop]
    assert stream(decode, ids, stops) == expected(decode, ids, stops)


def test_the_longest_stop_texts_cost_an_answer_less_than_50_ms() -> None:
    """Of a processor's time: texts that begin like what is said, over and over, are the worst there are."""
    stops = ["a" * (LONGEST_STOP - 1) + letter for letter in "bcde"]
    assert len(stops) == MOST_STOPS

    def cost(stops: Sequence[str]) -> float:
        started = time.process_time()
        assert stream(lambda ids: "aaaa" * len(ids), range(500), stops) == ("aaaa" * 500, False)
        return time.process_time() - started

    assert min(cost(stops) for _ in range(5)) - min(cost([]) for _ in range(5)) < 0.05


def test_a_model_without_a_tokenizer_streams_its_tokens_numbers() -> None:
    assert stream(lambda ids: None, [5, 17, 3], ["7 3"]) == (" 5 1", True)


@pytest.mark.parametrize("text", ["The quick brown fox jumps. " * 350, "你好，世界🦊" * 300])
def test_a_token_costs_the_decoding_of_a_few_however_long_the_text_is(text: str) -> None:
    ids, decoded = ids_of(text)[:2000], []

    def decode(some: Sequence[int]) -> str | None:
        decoded.append(len(some))
        return smollm2().decode(some)

    assert stream(decode, ids)[0] == smollm2().decode(ids)
    assert max(decoded) <= 12  # two pieces; a character of four bytes is at most four tokens
    assert sum(decoded) <= 2 * 12 * len(ids)
