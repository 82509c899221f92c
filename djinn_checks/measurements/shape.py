"""Whether plain data is of the shape that a TypedDict gives it. Standard library only.

Outcomes of earlier versions lack names that were added since; a name that is there is of its type.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

_NUMBERS = ("NaN", "Infinity", "-Infinity")
"""Numbers that JSON lacks, as an outcome writes them."""
_WORDS: Mapping[Any, str] = {int: "a number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


class ShapeError(ValueError):
    """Data is not of its shape. The message names the place, what was expected and what came."""


def check_shape(value: Any, kind: Any, path: str, *, partly: bool = False) -> None:
    """Raise unless a value is of a kind.

    Args:
        kind: a TypedDict, or what may stand for the value of a name in one.
        path: where the value stands, for the message.
        partly: names of the outermost TypedDict may be missing.

    Raises:
        ShapeError: it is not. Names that the TypedDict does not have are let be.
    """
    origin = get_origin(kind)
    if kind is Any:
        return
    if is_typeddict(kind):
        _check_names(value, kind, path, partly=partly)
    elif origin is list:
        for item in _items(value, kind, path):
            check_shape(item, get_args(kind)[0], f"{path}[]")
    elif origin is tuple:
        kinds = get_args(kind)
        items = _items(value, kind, path)
        if len(items) != len(kinds):
            raise ShapeError(f"{path}: expected {len(kinds)} values, got {len(items)}")
        for item, its in zip(items, kinds, strict=True):
            check_shape(item, its, f"{path}[]")
    elif origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong(value, kind, path)
        for name, item in value.items():
            check_shape(item, get_args(kind)[1], f"{path}.{name}")
    elif origin in (Union, types.UnionType):
        _check_union(value, get_args(kind), path)
    elif origin is Literal:
        if value not in get_args(kind):
            raise ShapeError(f"{path}: expected one of {', '.join(map(str, get_args(kind)))}, got {str(value)[:40]!r}")
    elif not _is_plain(value, kind):
        raise _wrong(value, kind, path)


def _check_names(value: Any, kind: Any, path: str, *, partly: bool) -> None:
    if not isinstance(value, Mapping):
        raise _wrong(value, kind, path)
    for name, (its, is_needed) in _names(kind).items():
        if name in value:
            check_shape(value[name], its, f"{path}.{name}")
        elif is_needed and not partly:
            raise ShapeError(f"{path}.{name}: is missing")


@cache
def _names(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Return the names of a TypedDict, what each holds, and whether it has to be there."""
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        is_optional = get_origin(hint) is NotRequired
        found[name] = (get_args(hint)[0] if is_optional else hint, kind.__total__ and not is_optional)
    return found


def _check_union(value: Any, kinds: tuple[Any, ...], path: str) -> None:
    """Raise what the last kind says, null left out, unless the value is of one of them."""
    if value is None and type(None) in kinds:
        return
    wrong: ShapeError | None = None
    for kind in (kind for kind in kinds if kind is not type(None)):
        try:
            check_shape(value, kind, path)
        except ShapeError as error:
            wrong = error
        else:
            return
    if wrong is not None:
        raise wrong


def _items(value: Any, kind: Any, path: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise _wrong(value, kind, path)
    return list(value)


def _is_plain(value: Any, kind: Any) -> bool:
    if kind is int or kind is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number or (kind is float and isinstance(value, str) and value in _NUMBERS)
    return isinstance(value, kind)


def _wrong(value: Any, kind: Any, path: str) -> ShapeError:
    origin = get_origin(kind)
    is_table = is_typeddict(kind) or origin is dict
    wanted = "a table of names" if is_table else "a list" if origin in (list, tuple) else _WORDS.get(kind, str(kind))
    return ShapeError(f"{path}: expected {wanted}, got {'null' if value is None else type(value).__name__}")
