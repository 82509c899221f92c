"""Tokens become text as they come: whole characters only, and nothing behind a stop text.

Each token costs the decoding of a few: a window that begins with the piece before the last complete one. The
piece before it is decoded along because tokenizers treat the first token of a text specially (a leading space).
"""

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
        self._window: list[int] = []
        self._complete = 0
        """Tokens at the window's start whose text is complete and has been taken."""
        self._taken = 0
        """Characters that they come to, decoded by themselves."""
        self._held = ""
        """Complete text that may be the beginning of a stop text."""
        self.is_stopped = False

    def add(self, token_id: int) -> str:
        """Return the text that one more token brings; empty while a character or a stop text is incomplete."""
        if self.is_stopped:
            return ""
        self._window.append(token_id)
        text = text_of(self._decode, self._window)
        if text.endswith(_INCOMPLETE):
            return ""
        new = text[self._taken :]
        del self._window[: self._complete]
        self._complete, self._taken = len(self._window), len(text_of(self._decode, self._window))
        return self._take(new, is_last=False)

    def finish(self) -> str:
        """Return what was held back."""
        return "" if self.is_stopped else self._take(text_of(self._decode, self._window)[self._taken :], is_last=True)

    def piece(self, token_id: int) -> str:
        """Return the text of one token by itself."""
        return text_of(self._decode, [token_id])

    def _take(self, new: str, *, is_last: bool) -> str:
        """Return what of the complete text may be sent, now that there is more of it."""
        text = self._held + new
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        self.is_stopped = bool(found)
        end = min(found) if found else len(text) if is_last else len(text) - self._beginning(text)
        self._held = "" if found else text[end:]
        return text[:end]

    def _beginning(self, text: str) -> int:
        """Return how many characters at the end may be the beginning of a stop text."""
        lengths = (length for stop in self._stops for length in range(1, len(stop)) if text.endswith(stop[:length]))
        return max(lengths, default=0)


def text_of(decode: Decode, ids: Sequence[int]) -> str:
    """Return the text of token ids; a model without a tokenizer has its tokens' numbers for words."""
    text = decode(ids)
    return "".join(f" {token}" for token in ids) if text is None else text
