"""Tokens become text as they come: whole characters only, and nothing behind a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # what a tokenizer shows for a character whose bytes have not all come yet

Decode = Callable[[Sequence[int]], str | None]
"""Text of token ids; None if the model has no tokenizer."""


class TextStream:
    """The text of a completion, token by token.

    Attributes:
        is_stopped: a stop text has come; what follows is not part of the text.
    """

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = [stop for stop in stops if stop]
        self._ids: list[int] = []
        self._sent = 0
        self.is_stopped = False

    def add(self, token_id: int) -> str:
        """Return the text that one more token brings; empty while a character or a stop text is incomplete."""
        self._ids.append(token_id)
        return self._take(self._text(), is_last=False)

    def finish(self) -> str:
        """Return what was held back."""
        return "" if self.is_stopped else self._take(self._text(), is_last=True)

    def piece(self, token_id: int) -> str:
        """Return the text of one token by itself."""
        return text_of(self._decode, [token_id])

    def _text(self) -> str:
        return text_of(self._decode, self._ids)

    def _take(self, text: str, *, is_last: bool) -> str:
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.is_stopped = True
            text = text[: min(found)]
        elif not is_last:
            text = text[: len(text) - self._held(text)]
        new = text[self._sent :]
        self._sent = max(self._sent, len(text))
        return new

    def _held(self, text: str) -> int:
        """Return how many characters at the end may still change, or be the beginning of a stop text."""
        if text.endswith(_INCOMPLETE):
            return len(text) - len(text.rstrip(_INCOMPLETE))
        beginnings = (length for stop in self._stops for length in range(1, len(stop)) if text.endswith(stop[:length]))
        return max(beginnings, default=0)


def text_of(decode: Decode, ids: Sequence[int]) -> str:
    """Return the text of token ids; a model without a tokenizer has its tokens' numbers for words."""
    text = decode(ids)
    return "".join(f" {token}" for token in ids) if text is None else text
