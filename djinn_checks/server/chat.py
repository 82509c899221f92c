"""Chats: the model's own template makes a prompt of the messages, and the rest is a completion."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from djinn_checks.errors import RequestError
from djinn_checks.models.open import Model
from djinn_checks.server.chat_schema import (
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatRequest,
)
from djinn_checks.server.completions import Completions
from djinn_checks.server.schema import Completion, CompletionRequest, Generation

_USUAL_TOKENS = 256
"""An answer's, where nobody says how many."""


class Chats:
    """Answers chats with one model, if it has a template for them."""

    def __init__(self, model: Model, completions: Completions, *, session_tokens: int) -> None:
        """Answer with what `completions` makes of the prompt; a session may hold `session_tokens` tokens."""
        self._model, self._completions, self._session_tokens = model, completions, session_tokens

    async def stream(self, asked: ChatRequest) -> AsyncGenerator[ChatChunk]:
        """Give the answer in parts: who speaks, what is said, and at last why it ends, with the usage.

        Raises:
            RequestError: the model has no template, or the template refuses the messages.
            DjinnChecksError: as a completion.
        """
        parts = self._completions.stream(await self._complete(asked))
        is_first = True
        try:
            async for part in parts:
                if is_first:
                    yield _chunk(part, ChatDelta(role="assistant", content=""))
                    is_first = False
                choice = part.choices[0]
                if choice.finish_reason is None or choice.text:
                    yield _chunk(part, ChatDelta(content=choice.text))
                if choice.finish_reason is not None:
                    yield _chunk(part, ChatDelta(), is_last=True)
        finally:
            await parts.aclose()

    async def whole(self, asked: ChatRequest) -> ChatCompletion:
        """Give the answer in one piece. Raises as `stream`."""
        answer = await self._completions.whole(await self._complete(asked))
        (choice,) = answer.choices
        if choice.finish_reason is None or answer.usage is None:
            raise RuntimeError("a completion in one piece has an end")
        told = ChatChoice(message=ChatAnswer(content=choice.text), finish_reason=choice.finish_reason)
        return ChatCompletion(
            id=answer.id.replace("cmpl-", "chatcmpl-"),
            created=answer.created,
            model=answer.model,
            choices=[told],
            usage=answer.usage,
            timings=answer.timings,
        )

    async def _complete(self, asked: ChatRequest) -> CompletionRequest:
        """Return the completion that a chat comes to."""
        self._completions.see_model(asked.model)
        ids = await asyncio.to_thread(self._read, asked)
        shared = {name: getattr(asked, name) for name in Generation.model_fields if name in asked.model_fields_set}
        room = max(min(_USUAL_TOKENS, self._session_tokens - len(ids)), 1)
        most = asked.max_completion_tokens or asked.max_tokens or room
        return CompletionRequest.model_construct(**shared, prompt=ids, max_tokens=most)

    def _read(self, asked: ChatRequest) -> list[int]:
        """Return the token ids of the messages, and of the words that the answer begins with."""
        tokenizer = self._model.tokenizer
        if getattr(tokenizer, "chat_template", None) is None or tokenizer is None:
            raise RequestError(
                f"messages: {self._model.name} has no chat template; send a prompt to /v1/completions instead"
            )
        messages = [{"role": message.role, "content": message.content} for message in asked.messages]
        try:
            text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except (
            Exception
        ) as error:  # a template is a program: it may raise anything about messages that it does not like
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RequestError(f"messages: the model's chat template refuses them: {reason}") from error
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _chunk(part: Completion, delta: ChatDelta, *, is_last: bool = False) -> ChatChunk:
    reason = part.choices[0].finish_reason if is_last else None
    return ChatChunk(
        id=part.id.replace("cmpl-", "chatcmpl-"),
        created=part.created,
        model=part.model,
        choices=[ChatChunkChoice(delta=delta, finish_reason=reason)],
        usage=part.usage if is_last else None,
        timings=part.timings if is_last else None,
    )
