"""Completions: a request becomes a turn, its tokens become text, whole or as a stream of events."""

from __future__ import annotations

import reprlib
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from typing import Literal

from djinn_checks.engine.turn import Token, TurnEnd, TurnRequest
from djinn_checks.errors import WrongModelError
from djinn_checks.models.open import Model
from djinn_checks.server.prompts import Prompts
from djinn_checks.server.schema import (
    Choice,
    Completion,
    CompletionRequest,
    Logprobs,
    PromptDetails,
    Timings,
    Usage,
)
from djinn_checks.server.sessions import Sessions
from djinn_checks.server.text import TextStream


@dataclass(kw_only=True)
class _Answer:
    """What a completion has come to so far."""

    text: TextStream
    prompt_tokens: int
    end_ids: frozenset[int]
    ids: list[int] = field(default_factory=list)
    length: int = 0
    """Characters so far."""

    def take(self, token: Token, asked: CompletionRequest) -> Choice:
        """Return the part of the answer that a token brings."""
        piece = "" if token.id in self.end_ids else self.text.add(token.id)
        offset, self.length = self.length, self.length + len(piece)
        self.ids.append(token.id)
        logprobs = None
        if asked.logprobs is not None and token.logprob is not None:
            logprobs = Logprobs(
                tokens=[self.text.piece(token.id)],
                token_logprobs=[token.logprob],
                top_logprobs=[self._name(token.top)],
                text_offset=[offset],
            )
        return Choice(text=piece, token_ids=[token.id], logprobs=logprobs)

    def _name(self, likely: Iterable[tuple[int, float]]) -> dict[str, float]:
        """Name the likeliest tokens by their texts; one whose text another has already is named by its id."""
        named: dict[str, float] = {}
        for token, value in likely:
            piece = self.text.piece(token)
            named[f"token_id:{token}" if piece in named else piece] = value
        return named

    def usage(self, end: TurnEnd) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=len(self.ids),
            total_tokens=self.prompt_tokens + len(self.ids),
            prompt_tokens_details=PromptDetails(cached_tokens=end.reused_tokens),
        )


class Completions:
    """Answers completion requests with one model."""

    def __init__(self, model: Model, sessions: Sessions, *, end_ids: frozenset[int], session_tokens: int) -> None:
        """Answer with `model`; a session may hold `session_tokens` tokens."""
        self._model, self._sessions = model, sessions
        self._end_ids, self._prompts = end_ids, Prompts(model, session_tokens=session_tokens)

    def see_model(self, name: str) -> None:
        """See that a request means the model that is served; one that names none does.

        Raises:
            WrongModelError: it names another.
        """
        if name not in ("", self._model.name):
            got = reprlib.repr(name)
            raise WrongModelError(f"model: {got} is not served here; expected {self._model.name!r}, or leave it out")

    async def stream(self, asked: CompletionRequest) -> AsyncGenerator[Completion]:
        """Give the answer in parts; the last one has the finish reason, the usage and the timings.

        Raises:
            RequestError: the request cannot be right, or names another model.
            DjinnChecksError: the engine refused it or could not finish it.
        """
        self.see_model(asked.model)
        prompt = await self._prompts.read(asked.prompt, asked.max_tokens)
        stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        answer = _Answer(text=TextStream(self._model.decode, stops), prompt_tokens=len(prompt), end_ids=self._end_ids)
        part = Completion(id=f"cmpl-{uuid.uuid4().hex}", created=int(time.time()), model=self._model.name, choices=[])
        request = TurnRequest(
            prompt=prompt,
            max_tokens=asked.max_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
            seed=secrets.randbits(62) if asked.seed is None else asked.seed,
            logprobs=asked.logprobs,
        )
        session_id = asked.agent_hint.session_id if asked.agent_hint else None
        with self._sessions.turn(session_id, request) as turn:
            while not answer.text.is_stopped and (token := await turn.next()) is not None:
                yield part.model_copy(update={"choices": [answer.take(token, asked)]})
            end = await turn.finish()
        yield self._last(part, answer, end)

    async def whole(self, asked: CompletionRequest) -> Completion:
        """Give the answer in one piece. Raises as `stream`."""
        parts = [part async for part in self.stream(asked)]
        choices = [part.choices[0] for part in parts]
        logprobs = [choice.logprobs for choice in choices if choice.logprobs is not None]
        choice = Choice(
            text="".join(choice.text for choice in choices),
            token_ids=[token for choice in choices for token in choice.token_ids],
            finish_reason=choices[-1].finish_reason,
            logprobs=_join(logprobs) if asked.logprobs is not None else None,
        )
        return parts[-1].model_copy(update={"choices": [choice]})

    def _last(self, part: Completion, answer: _Answer, end: TurnEnd) -> Completion:
        text = answer.text.finish()
        is_cut = end.reason == "length" and not answer.text.is_stopped
        reason: Literal["stop", "length"] = "length" if is_cut else "stop"
        timings = Timings(
            queue_s=end.queue_s, restore_s=end.restore_s, first_token_s=end.first_token_s, decode_s=end.decode_s
        )
        choice = Choice(text=text, token_ids=[], finish_reason=reason)
        return part.model_copy(update={"choices": [choice], "usage": answer.usage(end), "timings": timings})


def _join(parts: list[Logprobs]) -> Logprobs:
    return Logprobs(
        tokens=[item for part in parts for item in part.tokens],
        token_logprobs=[item for part in parts for item in part.token_logprobs],
        top_logprobs=[item for part in parts for item in part.top_logprobs],
        text_offset=[item for part in parts for item in part.text_offset],
    )
