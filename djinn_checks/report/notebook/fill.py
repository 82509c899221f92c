"""The figures of a page put into the executed notebook that left them to it."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

from djinn_checks.report.left import LEFT
from djinn_checks.report.notebook.cells import Call, find_call
from djinn_checks.report.tables import Html

Figures = dict[Call, Html]
"""The markup of figures, by the calls that make them."""

_FOR_PHONES = re.compile(r"<source [^>]*>")
_WORDS = re.compile(r'alt="([^"]*)"|<p class="nothing-to-draw">(.*?)</p>', re.DOTALL)


def fill_figures(notebook: Mapping[str, Any], figures: Figures) -> bool:
    """Put each figure where its call's output says that it was left out, with its words; return whether there was one.

    Args:
        notebook: as JSON; changed in place.
    """
    filled = False
    for cell in notebook["cells"]:
        figure = figures.get(find_call(cell) or ("", ()))
        for data in (output.get("data", {}) for output in cell.get("outputs", ())) if figure else ():
            if "".join(data.get("text/plain", "")) == LEFT:
                data["text/html"] = f'<div class="djinn-checks">{_FOR_PHONES.sub("", str(figure))}</div>'
                data["text/plain"] = _find_words(str(figure))
                filled = True
    return filled


def _find_words(figure: str) -> str:
    """Return what a figure's markup says in words, as they were before they were markup."""
    found = _WORDS.search(figure)
    return html.unescape(found[1] or found[2] or "") if found else ""
