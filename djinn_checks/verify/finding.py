"""What became of one thing that a folder says."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass

from djinn_checks.outcome import Observed, format_value


class Kind(enum.StrEnum):
    """What can be said of a thing that a folder says."""

    AGREES = "agrees"
    """It was derived again from something else in the folder, and came out the same."""
    DISAGREES = "disagrees"
    """It was derived again, and came out otherwise."""
    BELIEVED = "believed"
    """Nothing in the folder tells whether it is so."""
    UNREADABLE = "unreadable"
    """It could not be read, so nothing was derived."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that a folder says, and what was found of it."""

    kind: Kind
    file: str
    """Within the folder."""
    what: str
    """The row or the part of the file."""
    why: str
    """What it says and what was found, from what it was derived, or why it has to be believed."""


def agrees(file: str, what: str, why: str) -> Finding:
    """Return that a thing was derived again and came out the same."""
    return Finding(kind=Kind.AGREES, file=file, what=what, why=why)


def disagrees(file: str, what: str, why: str) -> Finding:
    """Return that a thing was derived again and came out otherwise."""
    return Finding(kind=Kind.DISAGREES, file=file, what=what, why=why)


def believed(file: str, what: str, why: str) -> Finding:
    """Return that nothing tells whether a thing is so."""
    return Finding(kind=Kind.BELIEVED, file=file, what=what, why=why)


def unreadable(file: str, what: str, why: str) -> Finding:
    """Return that a thing could not be read."""
    return Finding(kind=Kind.UNREADABLE, file=file, what=what, why=why)


def compare(
    file: str, what: str, told: Observed, found: Observed, source: str, *, relative: float = 1e-6, absolute: float = 0.0
) -> Finding:
    """Hold a value that a file states against the one that was derived again.

    Args:
        source: from what it was derived, as it stands in a sentence.
        relative: how far two numbers may be apart as a share of the larger one; `absolute`, in their own unit.
    """
    if is_near(told, found, relative=relative, absolute=absolute):
        return agrees(file, what, source)
    return disagrees(file, what, f"says {_tell(told, found)}, and by {source} it is {_tell(found, told)}")


def is_near(told: Observed, found: Observed, *, relative: float = 1e-6, absolute: float = 0.0) -> bool:
    """Tell whether two values are the same: numbers within a tolerance, NaN as NaN, all else exactly."""
    if not (_is_number(told) and _is_number(found)):
        return told == found and type(told) is type(found)
    one, other = float(told or 0), float(found or 0)
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return math.isclose(one, other, rel_tol=relative, abs_tol=absolute)


def worst_code(findings: Iterable[Finding]) -> int:
    """Return the exit code: 1 if something disagrees, 5 if something could not be read, 0 otherwise."""
    kinds = {finding.kind for finding in findings}
    if Kind.DISAGREES in kinds:
        return 1
    return 5 if Kind.UNREADABLE in kinds else 0


def _is_number(value: Observed) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tell(value: Observed, other: Observed) -> str:
    """Return a value in few digits, or in all where few would make two of them look the same."""
    short = format_value(value)[:80]
    return short if short != format_value(other)[:80] else repr(value)[:80]
