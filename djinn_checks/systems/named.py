"""`module:Class`: what nobody has registered, found by where it stands."""

from __future__ import annotations

import importlib
import os
import sys
from operator import attrgetter
from typing import Any

from djinn_checks.errors import ParamsError


def import_named(name: str) -> Any:
    """Return what `module:Class` names.

    The working folder is looked in last, as everywhere in a run, so that no file there is taken for a library. It
    stays among the places to look in: a system may import a neighbour when it is opened.

    Raises:
        ParamsError: there is no such module, or it has nothing of that name. What the module itself raises while it is
            imported comes through as it is.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ParamsError(f"system: {name!r} is no module:Class, as in my_package.streamer:LayerByLayer")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # one that the system's own module asks for
        message = f"system: {name!r}: there is no module {error.name!r} in this Python's environment, nor in the "
        raise ParamsError(f"{message}working folder") from error
    try:
        return attrgetter(attribute)(found)
    except AttributeError:
        raise ParamsError(f"system: {name!r}: module {module!r} has no {attribute!r}; is it spelled right?") from None
