"""A prompt becomes token ids, off the event loop; one that is certainly too long is refused without being encoded."""

from __future__ import annotations

import asyncio

from djinn_checks.errors import RequestError
from djinn_checks.models.open import Model
from djinn_checks.server.text_bound import text_bound


class Prompts:
    """Reads the prompts of requests."""

    def __init__(self, model: Model, *, session_tokens: int) -> None:
        """Read for `model`; a session may hold `session_tokens` tokens."""
        self._model, self._session_tokens = model, session_tokens
        self._vocabulary = model.vocabulary
        self._bound = text_bound(model.tokenizer)

    async def read(self, prompt: str | list[int], max_tokens: int) -> tuple[int, ...]:
        """Return a prompt's token ids, if they leave room for `max_tokens` more.

        Raises:
            RequestError: they do not, or are none of the model's.
        """
        room = self._session_tokens - max_tokens
        if self._is_beyond(prompt, room):
            raise self._too_long(max_tokens)
        ids = await asyncio.to_thread(self._model.encode, prompt, room + 1) if isinstance(prompt, str) else prompt
        if len(ids) > room:
            raise self._too_long(max_tokens)
        if not ids:
            raise RequestError("prompt: it comes to no token at all; send at least one")
        if max(ids) >= self._vocabulary:
            raise RequestError(f"prompt: token ids go from 0 to {self._vocabulary - 1}, got {max(ids)}")
        return tuple(ids)

    def _is_beyond(self, prompt: str | list[int], room: int) -> bool:
        """Tell whether a prompt is too long for certain, by its length alone."""
        if room < 1 or not isinstance(prompt, str):
            return len(prompt) > room
        return self._bound is not None and self._bound.is_beyond(prompt, room)

    def _too_long(self, max_tokens: int) -> RequestError:
        return RequestError(
            f"prompt: its tokens and max_tokens={max_tokens} are more than the {self._session_tokens} tokens "
            "that a session may hold; send fewer, or start the server with a larger --session-tokens"
        )
