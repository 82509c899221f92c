"""The code that the resident model runs has to be its own, or nothing can be held against it.

A system may replace a method of a class of transformers, or a function of PyTorch: for the whole process, and so for
the reference as well. What it does when it is built or opened is taken back while the reference runs, and put in again.
What was done before, when its module was imported, cannot be taken back, and is told.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn

from djinn_checks.errors import ModelUnsupportedError

_OTHERS = frozenset(("torch", "transformers", "typing_extensions", "numpy", "kernels", "djinn_checks"))
"""Packages whose functions models use, beside Python's own and that of the model's class."""

_NONE = object()

Place = type | ModuleType


class _Replaced(NamedTuple):
    place: Place
    name: str
    old: Any
    new: Any


class OwnCode:
    """The names by which a model's forward finds its code, as they were when this was made."""

    def __init__(self, model: nn.Module) -> None:
        """Keep what they stand for.

        Args:
            model: of the classes that the reference has; its weights are not looked at.
        """
        places: list[Place] = [*_find_kinds(model), *_find_libraries()]
        self._kept = [(place, dict(vars(place))) for place in places]
        self._left: list[_Replaced] = []

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Take back what was replaced since; behind it the replacements are there again."""
        replaced = self._replaced()
        _take_back(replaced)
        try:
            yield
        finally:
            _put_in(replaced)

    @contextlib.contextmanager
    def rehearsed(self) -> Iterator[None]:
        """Take back at the end what is replaced meanwhile: what is opened once more shall not find its own traces."""
        try:
            yield
        finally:
            self._left = self._replaced()
            _take_back(self._left)

    def put_in_again(self) -> None:
        """Put in what was replaced while it was rehearsed, if nothing was since: some do it once in a process."""
        if not self._replaced():
            _put_in(self._left)

    def _replaced(self) -> list[_Replaced]:
        return [found for place, names in self._kept for found in _find_replaced(place, names)]


def _find_replaced(place: Place, kept: Mapping[str, Any]) -> list[_Replaced]:
    """Return the code that was replaced. What a module has got since is let be: others may be imported into it."""
    there = dict(vars(place))
    names = kept.keys() | there.keys() if isinstance(place, type) else kept.keys()
    found = [_Replaced(place, name, kept.get(name, _NONE), there.get(name, _NONE)) for name in names]
    return [one for one in found if one.new is not one.old and _is_code(one.new if one.old is _NONE else one.old)]


def _take_back(replaced: Iterable[_Replaced]) -> None:
    for one in replaced:
        _put(one.place, one.name, one.old)


def _put_in(replaced: Iterable[_Replaced]) -> None:
    for one in replaced:
        _put(one.place, one.name, one.new)


def _put(place: Place, name: str, value: Any) -> None:
    if value is _NONE:
        delattr(place, name)
    else:
        setattr(place, name, value)


def refuse_foreign(model: nn.Module) -> None:
    """Refuse a model that runs code of somebody else's.

    Raises:
        ModelUnsupportedError: a function of its classes, of the modules that define them, or of PyTorch was replaced.
    """
    places: list[Place] = [*_find_kinds(model), *_find_homes(model)]
    found = [
        (place, name, home)
        for place in places
        for name, value in vars(place).items()
        if (home := _home(value)) and not _belongs(home, place)
    ]
    if found:
        place, name, home = found[0]
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise ModelUnsupportedError(
            f"the resident model would run {place.__name__}.{name} of {home}{more}: expected its own code, as nothing "
            "can be held against a reference that runs the system's. Replace it in the system's open(): what is done "
            "there is taken back while the reference runs"
        )


def _find_kinds(model: nn.Module) -> list[type]:
    """Return the classes in which a model's forward looks methods up."""
    return [torch.Tensor, *dict.fromkeys(kind for module in model.modules() for kind in type(module).__mro__[:-1])]


def _find_homes(model: nn.Module) -> list[ModuleType]:
    """Return the modules that define a model's classes, and those of PyTorch whose functions they call."""
    homes = dict.fromkeys(type(module).__module__ for module in model.modules())
    return [sys.modules[home] for home in (*homes, "torch", "torch.nn.functional") if home in sys.modules]


def _find_libraries() -> list[ModuleType]:
    """Return all modules whose functions a forward may come by."""
    named = [(name, module) for name, module in sys.modules.items() if isinstance(module, ModuleType)]
    return [module for name, module in named if name == "torch" or name.startswith(("torch.nn.", "transformers."))]


def _is_code(value: Any) -> bool:
    return callable(value) or isinstance(value, (staticmethod, classmethod, property))


def _home(value: Any) -> str:
    """Return the module that a function was written in, whatever it says of itself; empty if it is none."""
    inner = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
    return str(inner.__globals__.get("__name__", "")) if isinstance(inner, FunctionType) else ""


def _belongs(home: str, place: Place) -> bool:
    package = home.partition(".")[0]
    own = (place.__module__ if isinstance(place, type) else place.__name__).partition(".")[0]
    return package == own or package in _OTHERS or package in sys.stdlib_module_names
