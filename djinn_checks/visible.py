"""Text from others as a terminal may show it: what would move the cursor, change colours or turn the order of letters
around is spelled out. Names of files, summaries and reasons come from wherever a file came from.
"""

from __future__ import annotations

import unicodedata

_KEPT = "\n\t"
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of Unicode: controls, formats (those of direction and without width among them), halves of a pair of
surrogates, and ends of line that are none to a terminal."""


def make_visible(text: str) -> str:
    """Return text with each control and each format character as its escape; ends of line and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spell(letter) if _is_hidden(letter) else letter for letter in text)


def _is_hidden(letter: str) -> bool:
    return letter not in _KEPT and unicodedata.category(letter) in _HIDDEN


def _spell(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
