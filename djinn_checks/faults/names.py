"""The names of our faults, without what plants them: a list of names should not have to load PyTorch and the engine.

python -m djinn_checks.faults.catalogs     writes `names.json` anew, which a test holds against the catalogs
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import entry_points

from djinn_checks.errors import ParamsError
from djinn_checks.nearest import suggest

FILE = "names.json"
_OURS = "djinn_checks."
_NEAR = 0.6
"""Names of faults are long and alike."""
ENTRY_POINT_GROUP = "djinn_checks.faults"


@dataclass(frozen=True, kw_only=True)
class FaultName:
    """What there is to say of a fault before it is planted."""

    name: str
    check: str
    breaks: str
    devices: tuple[str, ...]
    """Kinds of devices that it can be planted on."""


def find_names(checks: Collection[str], name: str | None, load: Callable[[], Sequence[FaultName]]) -> list[FaultName]:
    """Return the faults that are registered: all, those of some checks, or the one of a name.

    Args:
        load: reads the catalogs, where another package has one.

    Raises:
        ParamsError: there is none such.
    """
    every = load() if _has_others() else _read_names()
    chosen = [fault for fault in every if (not checks or fault.check in checks) and name in (None, fault.name)]
    if not chosen:
        raise ParamsError(say_there_is_none(checks, name, {fault.name: fault.check for fault in every}))
    return chosen


def say_there_is_none(checks: Collection[str], name: str | None, every: Mapping[str, str]) -> str:
    """Return why nothing was chosen, and what would be right.

    Args:
        every: the check of each fault.
    """
    asked = " and ".join(f"{what} {value!r}" for what, value in (("check", ", ".join(checks)), ("name", name)) if value)
    known = sorted(name for name, check in every.items() if check in checks) or sorted(every)
    return f"faults: there is none of {asked}; {suggest(name or '', known, near=_NEAR)}"


def _read_names() -> list[FaultName]:
    rows = json.loads((resources.files("djinn_checks.faults") / FILE).read_text(encoding="utf-8"))
    return [FaultName(**row | {"devices": tuple(row["devices"])}) for row in rows]


def _has_others() -> bool:
    """Tell whether another package registered faults, which only its own catalog knows."""
    return any(not entry.value.startswith(_OURS) for entry in entry_points(group=ENTRY_POINT_GROUP))
