"""Text from outside as Markdown shows it: as it is, whatever stands in it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from djinn_checks.visible import make_visible

_SPECIAL = re.compile(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)")
"""What Markdown reads as markup wherever it stands; an underscore within a word is none."""
_ADDRESS = re.compile(r"(?<=\w)(?=://|@)|(?<=www)(?=\.)")
"""What becomes a link by itself."""


def plain(text: str) -> str:
    """Return text that a table cell shows as it is: no link, no emphasis, no markup, its letters in their order."""
    line = make_visible(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")
    return _ADDRESS.sub(r"\\", _SPECIAL.sub(r"\\\g<0>", line))


def draw_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; its cells are Markdown."""
    return "\n".join(draw_row(line) for line in (columns, ["---"] * len(columns), *rows))


def draw_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
