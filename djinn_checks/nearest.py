"""What somebody may have meant by a name that nothing answers to."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_NEAR = 0.5
"""Of `difflib`'s ratio, which is 1 for equal names."""


def find_nearest(name: str, known: Iterable[str], *, near: float = _NEAR) -> str | None:
    """Return the known name that is most like `name`; None if none is like it."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=near)), None)


def suggest(name: str, known: Iterable[str], *, otherwise: str = "", near: float = _NEAR) -> str:
    """Return "did you mean ...?" with the nearest of the known names.

    Args:
        otherwise: what is said if none is near; empty: all known names, in their order.
    """
    names = list(known)
    nearest = find_nearest(name, names, near=near)
    if nearest is not None:
        return f"did you mean {nearest!r}?"
    return otherwise or f"known: {', '.join(names) or 'none'}"
