"""Verdicts, figures and tables of outcomes. Whatever a notebook draws is imported from here, by its name alone."""

from __future__ import annotations

import os
from typing import Any


def __getattr__(name: str) -> Any:
    from djinn_checks.report.drawings import FIGURES, find_drawing  # loads no figure before one is asked for
    from djinn_checks.report.left import leave
    from djinn_checks.report.progress import SCRATCH

    if name in FIGURES and SCRATCH in os.environ:
        return leave
    try:
        return find_drawing(name)
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
