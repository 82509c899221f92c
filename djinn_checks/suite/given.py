"""What the command line gives in place of what stands in params files, and names that nothing answers to.

A name that cannot be right is refused here, before a kernel starts: a system that no entry point registers, and a model
that is none of the known kinds or a slip of the pen away from a known one.
"""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import re
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from djinn_checks.bounded import refuse_bulk
from djinn_checks.errors import ParamsError
from djinn_checks.nearest import find_nearest, suggest
from djinn_checks.params import PARAMS

SYSTEMS = "djinn_checks.systems"
"""The entry point group of systems."""
SHAPES = ("llama-2-7b", "llama-2-13b", "llama-2-70b", "tiny")
"""Shapes of random models that are known by name; any other is the path of a config.json."""
_BUNDLED = "smollm2"
_MAKES_NAMES = r"import \*|__getattr__|globals\(|exec\("
"""In the text of a module: it may have names that are not written in it."""
_RANDOM = "random:"
_NEAR = 0.8
"""So alike are a name and what it was meant to be, by difflib's measure."""


def read_given(texts: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of `name=value` texts; values are read as YAML, as those of params files are.

    Raises:
        ParamsError: a text is of another form, a name stands twice, or no check knows it.
    """
    known = {name for params in PARAMS.values() for name in params.model_fields}
    given: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise ParamsError(f"--set {text}: expected name=value, as in --set device=cuda:1")
        if name in given:
            raise ParamsError(f"--set {name}: stands twice; leave one")
        if name not in known:
            hint = suggest(name, sorted(known))
            raise ParamsError(f"--set {name}: no check has a parameter of that name; {hint}")
        given[name] = _read_value(text, value)
    return given


def _read_value(text: str, value: str) -> Any:
    try:
        found = yaml.safe_load(value)
        refuse_bulk(found)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ParamsError(f"--set {text}: the value cannot be read as YAML ({error})") from error
    return found


def refuse_unknown_names(values: Mapping[str, Any]) -> None:
    """Refuse a system or a model that nothing answers to.

    Args:
        values: parameters of a check, defaults included.

    Raises:
        ParamsError: there is no such thing.
    """
    system, model = values.get("system"), values.get("model")
    if isinstance(system, str) and not values.get("trace"):
        _refuse_system(system)
    if isinstance(model, str) and not values.get("trace"):
        _refuse_model(model)


def _refuse_system(name: str) -> None:
    if ":" in name:
        _refuse_module(name)
        return
    known = sorted({entry.name for entry in entry_points(group=SYSTEMS)})
    if known and name not in known:
        nearest = find_nearest(name, known)
        hint = f"did you mean {nearest!r}? " if nearest else ""
        raise ParamsError(
            f"system: unknown name {name!r}; {hint}registered: {', '.join(known)}. "
            f"Give your own as module:Class, or register it in the entry point group {SYSTEMS!r}"
        )


def _refuse_module(name: str) -> None:
    """Refuse `module:Class` if that is no such name, or its outermost package is nowhere. Nothing of it is run."""
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise ParamsError(f"system: {name!r} is no module:Class, as in my_package.streamer:LayerByLayer")
    outermost, *inner = module.split(".")
    spec = importlib.util.find_spec(outermost) or PathFinder.find_spec(outermost, [os.getcwd()])
    if spec is None:
        raise ParamsError(
            f"system: {name!r}: there is no module {outermost!r} in this Python's environment, nor in the "
            "working folder"
        )
    found, places = outermost, list(spec.submodule_search_locations or ())
    for part in inner:
        # Looked for by its own name: by the whole one, its parent would have to be imported.
        spec = PathFinder.find_spec(part, places) if places else None
        if spec is None:
            known = sorted(each.name for each in pkgutil.iter_modules(places))
            raise ParamsError(f"system: {name!r}: there is no module {part!r} in {found!r}; {suggest(part, known)}")
        found, places = f"{found}.{part}", list(spec.submodule_search_locations or ())
    _refuse_unwritten(name, found, spec, attribute.partition(".")[0])


def _refuse_unwritten(name: str, module: str, spec: ModuleSpec, attribute: str) -> None:
    """Refuse a class whose name is nowhere in its module's text, unless the text may make names that are not in it."""
    if not spec.origin or not spec.origin.endswith(".py"):
        return
    try:
        text = Path(spec.origin).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return
    if re.search(rf"\b{re.escape(attribute)}\b", text) or re.search(_MAKES_NAMES, text):
        return
    classes = re.findall(r"^class (\w+)", text, re.MULTILINE)
    raise ParamsError(f"system: {name!r}: {module} has no {attribute!r}; {suggest(attribute, classes)}")


def _refuse_model(name: str) -> None:
    if name.startswith(_RANDOM):
        shape = name.removeprefix(_RANDOM)
        if shape not in SHAPES and not Path(shape).is_file():
            nearest = find_nearest(shape, SHAPES)
            hint = f"did you mean {_RANDOM + nearest!r}?" if nearest else "is the path right?"
            raise ParamsError(
                f"model: {name!r} names no shape; known: {', '.join(SHAPES)}, or the path of a config.json; {hint}"
            )
        return
    if name == _BUNDLED or Path(name).exists():
        return
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ParamsError(f"model: there is no folder {name!r}, and a hub id has one slash at most")
    spoken = [_BUNDLED, *SHAPES]
    nearest = find_nearest(name, spoken, near=_NEAR)
    if nearest:
        meant = nearest if nearest == _BUNDLED else _RANDOM + nearest
        raise ParamsError(f"model: unknown name {name!r}; did you mean {meant!r}?")
