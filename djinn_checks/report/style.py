"""The style sheet that notebooks and pages share, and the folder of the template that it belongs to."""

from __future__ import annotations

from functools import cache
from pathlib import Path

TEMPLATE = "djinn_checks"
TEMPLATE_FOLDER = Path(__file__).parent / "templates"


@cache
def read_style() -> str:
    """Return the style sheet as text."""
    return (TEMPLATE_FOLDER / TEMPLATE / "style.css").read_text(encoding="utf-8")
