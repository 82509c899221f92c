"""Tokens become text as they come: whole characters only, and nothing behind a stop text.

Each token costs the decoding of a few: a window that begins with the piece before the last complete one. The
piece before it is decoded along because tokenizers treat the first token of a text specially (a leading space).
And each of its characters costs a step or two for each stop text, however long that is: what of it has come so far
is remembered, and never looked for again (Knuth, Morris and Pratt).
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
        self._stops = [_StopText(stop) for stop in stops if stop]
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
        before, text = len(self._held), self._held + new
        found = [before + at for at in (stop.find(new) for stop in self._stops) if at is not None]
        self.is_stopped = bool(found)
        begun = max((stop.begun for stop in self._stops), default=0)
        end = min(found) if found else len(text) if is_last else len(text) - begun
        self._held = "" if found else text[end:]
        return text[:end]


class _StopText:
    """A stop text that is looked for in a text that comes bit by bit.

    Attributes:
        begun: how many of its characters stand at the end of the text so far.
    """

    def __init__(self, stop: str) -> None:
        self._stop = stop
        self._shorter = _beginnings(stop)
        self.begun = 0

    def find(self, new: str) -> int | None:
        """Return where it begins, counted from the start of the text that is new, so perhaps below 0; None if it has
        not come as a whole. It is found once.
        """
        for place, letter in enumerate(new):
            while self.begun and self._stop[self.begun] != letter:
                self.begun = self._shorter[self.begun - 1]
            self.begun += self._stop[self.begun] == letter
            if self.begun == len(self._stop):
                return place + 1 - len(self._stop)
        return None


def _beginnings(stop: str) -> list[int]:
    """Return for each character how long a beginning of the text ends there, short of all up to it."""
    lengths, length = [0], 0
    for letter in stop[1:]:
        while length and stop[length] != letter:
            length = lengths[length - 1]
        length += stop[length] == letter
        lengths.append(length)
    return lengths


def text_of(decode: Decode, ids: Sequence[int]) -> str:
    """Return the text of token ids; a model without a tokenizer has its tokens' numbers for words."""
    text = decode(ids)
    return "".join(f" {token}" for token in ids) if text is None else text
