"""How many characters of a text one token covers at most, so that a long text is known to be too long by its length.

It is certain of byte pairs, if nothing of a text is dropped or folded into an unknown token on the way to them:
then a token covers no more than the characters of its own name. Some vocabularies lack a few bytes, and drop
them. As long as every byte that goes on a character is there, only single ASCII characters can be lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_BYTE_TOKENS = {f"<0x{byte:02X}>" for byte in range(256)}

_SHRINKS = {"Prepend": 1, "NFC": 4}
"""Normalizers, with how many characters at most become one. (No character decomposes into more than four.)"""

_KEEPS_ALL = ("ByteLevel", "Digits", "Metaspace", "Split")
"""Ways of splitting a text that drop nothing of it."""


@dataclass(frozen=True, kw_only=True)
class TextBound:
    """What tokens can cover."""

    characters: int
    """Most characters of a token."""
    dropped: str = ""
    """Characters that come to no token at all."""

    def is_beyond(self, text: str, tokens: int) -> bool:
        """Tell whether a text comes to more than so many tokens for certain."""
        return len(text) - sum(map(text.count, self.dropped)) > tokens * self.characters


def text_bound(tokenizer: Any | None) -> TextBound | None:
    """Return the bound of a tokenizer, or None if nothing is certain."""
    if tokenizer is None:
        return TextBound(characters=1)  # see `Model.encode`: bytes
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    parts = json.loads(backend.to_str())
    shrink = _shrink(parts["normalizer"])
    dropped = _dropped(parts)
    takes_space = any(token["lstrip"] or token["rstrip"] for token in parts["added_tokens"])
    if shrink is None or dropped is None or takes_space:
        return None
    added = [token["content"] for token in parts["added_tokens"]]
    if backend.normalizer is not None:
        added += [backend.normalizer.normalize_str(text) for text in added]
    return TextBound(characters=shrink * max(map(len, [*parts["model"]["vocab"], *added])), dropped=dropped)


def _shrink(normalizer: dict[str, Any] | None) -> int | None:
    """Return how many characters at most become one."""
    whole = 1
    for step in _steps(normalizer, "normalizers"):
        factor = _SHRINKS.get(step["type"])
        if step["type"] == "Replace":
            pattern = step["pattern"].get("String")  # a regular expression may stand for any number of characters
            factor = 1 if pattern is not None and len(pattern) <= len(step["content"]) else None
        if factor is None:
            return None
        whole *= factor
    return whole


def _dropped(parts: dict[str, Any]) -> str | None:
    """Return the characters that come to no token; None if there may be others than ASCII ones, or it is not known."""
    from tokenizers.pre_tokenizers import ByteLevel

    splits = list(_steps(parts["pre_tokenizer"], "pretokenizers"))
    names = set(parts["model"]["vocab"])
    if parts["model"]["type"] != "BPE" or not all(map(_keeps_all, splits)):
        return None
    if parts["model"]["byte_fallback"]:
        return "" if names >= _BYTE_TOKENS else None
    if not any(split["type"] == "ByteLevel" for split in splits):
        return None
    missing = set(ByteLevel.alphabet()) - names
    dropped = "".join(letter for letter in map(chr, range(128)) if _byte_name(ord(letter)) in missing)
    goes_on = {_byte_name(byte) for byte in range(0x80, 0xC0)}
    is_known = not goes_on & missing and (not dropped or parts["normalizer"] is None)
    return dropped if is_known and parts["model"]["unk_token"] is None else None


def _byte_name(byte: int) -> str:
    """Return the character that stands for a byte in a byte-level vocabulary: itself if it can be printed."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return chr(byte) if byte in shown else chr(0x100 + sum(other not in shown for other in range(byte)))


def _steps(part: dict[str, Any] | None, inner: str) -> Iterator[dict[str, Any]]:
    if part is not None and part["type"] == "Sequence":
        for step in part[inner]:
            yield from _steps(step, inner)
    elif part is not None:
        yield part


def _keeps_all(step: dict[str, Any]) -> bool:
    return step["type"] in _KEEPS_ALL and step.get("behavior") != "Removed"
