"""Verdicts, figures and tables of outcomes. Whatever a notebook draws is imported from here, by its name alone."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    from djinn_checks.report.drawings import find_drawing  # loads no figure before one is asked for

    try:
        return find_drawing(name)
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
