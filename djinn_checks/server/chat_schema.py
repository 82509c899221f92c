"""What a chat is over the wire: OpenAI's chat completions, as far as one model that writes text can answer them."""

from __future__ import annotations

import reprlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from djinn_checks.server.fields import Body, only, refusal
from djinn_checks.server.schema import Generation, Timings, Usage


def _join_parts(value: object) -> object:
    """Take a list of texts for the text that they are together."""
    if not isinstance(value, list):
        return value
    texts = [part.get("text") for part in value if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) < max(len(value), 1) or not all(isinstance(text, str) for text in texts):
        expected = 'a text, or a list of {"type": "text", "text": ...}'
        raise refusal(expected, reprlib.repr(value), "the model reads text alone")
    return "".join(map(str, texts))


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """What somebody said."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        str, BeforeValidator(_join_parts, json_schema_input_type=str | Annotated[list[TextPart], Field(min_length=1)])
    ]
    name: str | None = None
    """Not used."""


class ChatRequest(Generation):
    """The answer to a chat, which the model's own template makes a prompt of."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)]
    """The whole chat so far. What the session's KV holds of it is not computed again."""
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Tokens to generate at most. Left out: 256, or as many as the session has room for."""
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """The same under another name; where both are given, this one counts."""
    logprobs: Annotated[Literal[False], only(False, "ask /v1/completions for them")] = False
    tools: Annotated[list[Any], Field(max_length=0), only([], "the server calls none; leave it out")] = []  # noqa: RUF012  pydantic copies it


class ChatAnswer(BaseModel):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatDelta(BaseModel):
    """What a part of a stream adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChoice(BaseModel):
    """The answer."""

    index: int = 0
    message: ChatAnswer
    finish_reason: Literal["stop", "length"]


class ChatChunkChoice(BaseModel):
    """A part of the answer."""

    index: int = 0
    delta: ChatDelta
    finish_reason: Literal["stop", "length"] | None = None


class ChatCompletion(BaseModel):
    """An answer in one piece."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    """Unix time."""
    model: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings | None = None


class ChatChunk(BaseModel):
    """A part of an answer that is streamed."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    timings: Timings | None = None
