"""Where in a system's own code an error was raised.

A traceback ends in whatever library the system called last, and begins in the check. What helps its author is the
last line between the two that is theirs.
"""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from djinn_checks.systems.base import System

_OURS = "djinn_checks"
_HOME = str(Path(__file__).resolve().parents[1]) + os.sep
_LIBRARIES = tuple(
    path + os.sep
    for path in {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    if path
)
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


class Place(NamedTuple):
    """A line of somebody's source."""

    file: str
    """Below the working folder as it is called from there, else in full."""
    line: int
    function: str
    """Empty where the file cannot be read as Python at all."""


def find_place(error: BaseException) -> Place | None:
    """Return the innermost line of the system's own code that an error went through; None if it went through none.

    A system's code is its class's outermost package, wherever that is installed, and any other file that is no
    library's. Where an error of ours was raised from the system's, that one is looked at.
    """
    systems = _packages_of_systems()
    for raised in _chain(error):
        if isinstance(raised, SyntaxError) and raised.filename and raised.lineno and os.path.isfile(raised.filename):
            return Place(_shorten(raised.filename), raised.lineno, "")
        frames = [step for step in traceback.walk_tb(raised.__traceback__) if _is_theirs(step[0], systems)]
        if frames:
            frame, line = frames[-1]
            return Place(_shorten(frame.f_code.co_filename), line, frame.f_code.co_name)
    return None


def name_place(place: Place | None) -> str:
    """Return a place as it stands behind what was said; empty if there is none."""
    if place is None:
        return ""
    return f" ({place.file}:{place.line}{f', in {place.function}' if place.function else ''})"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        yield found
        seen.add(id(found))
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _packages_of_systems() -> set[str]:
    """Return the outermost packages of all systems that are loaded, without ours."""
    found, classes = set(), list(System.__subclasses__())
    while classes:
        system = classes.pop()
        found.add(system.__module__.partition(".")[0])
        classes += system.__subclasses__()
    return found - {_OURS}


def _is_theirs(frame: FrameType, systems: set[str]) -> bool:
    file = frame.f_code.co_filename
    if os.path.realpath(file).startswith(_HOME) or not os.path.isfile(file):
        return False
    if str(frame.f_globals.get("__name__", "")).partition(".")[0] in systems:
        return True
    return not file.startswith(_LIBRARIES) and not any(part in file for part in _INSTALLED)


def _shorten(file: str) -> str:
    """Return a path from the working folder, if it lies below it."""
    whole, here = os.path.realpath(file), os.path.realpath(os.getcwd()) + os.sep
    return whole.removeprefix(here)
