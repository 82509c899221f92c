"""The code that the resident model runs has to be its own, or nothing can be held against it.

A system may replace a method of a class of transformers, a function of PyTorch, or hook every module: for the whole
process, and so for the reference as well. What it does when it is built is taken back while the reference runs, and put
in again; it is opened afterwards. What was done when its module was imported cannot be taken back, and is told.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from types import CodeType, FrameType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules import module as module_hooks

from djinn_checks.errors import ModelUnsupportedError

_OWN = frozenset((
    "torch", "transformers", "djinn_checks", "numpy", "scipy", "typing_extensions", "packaging", "accelerate",
    "huggingface_hub", "kernels", "triton", "torch_xla", "torchvision", "einops", "apex", "causal_conv1d", "fla",
    "flash_attn", "flash_attn_interface", "mamba_ssm", "mambapy", "natten",
))  # fmt: skip
"""Packages whose functions a resident model runs, beside Python's own: those that transformers itself calls."""

_NONE = object()

Place = type | ModuleType

_FIRST: dict[Place, dict[str, Any]] = {}
"""What names stood for when a check of this process saw them first: a system that was checked before may have left its
own there."""


class _Replaced(NamedTuple):
    place: Place
    name: str
    old: Any
    new: Any


class OwnCode:
    """The names by which a model's forward finds its code, as they were when the process's first check saw them."""

    def __init__(self, model: nn.Module) -> None:
        """Keep what they stand for.

        Args:
            model: of the classes that the reference has; its weights are not looked at.
        """
        self._places: list[Place] = [*_find_kinds(model), *_find_libraries()]
        for place in self._places:
            _FIRST.setdefault(place, dict(vars(place)))

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Take back what was replaced since, and the hooks of all modules; behind it they are there again."""
        replaced = [found for place in self._places for found in _find_replaced(place, _FIRST[place])]
        for one in replaced:
            _put(one.place, one.name, one.old)
        try:
            with _no_global_hooks():
                yield
        finally:
            for one in replaced:
                _put(one.place, one.name, one.new)


@contextlib.contextmanager
def refuse_foreign() -> Iterator[None]:
    """See which Python functions this thread runs meanwhile, but for those that clean up.

    Raises:
        ModelUnsupportedError: one of them is neither Python's own nor of a library that the resident model is made of.
    """
    found: dict[str, None] = {}
    seen: set[CodeType] = set()

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code not in seen:
            seen.add(frame.f_code)
            if not _is_own(frame):
                found[f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"] = None

    try:
        with _profiled_by(look):
            yield
    except Exception as error:
        if found:
            raise _foreign(list(found)) from error
        raise
    if found:
        raise _foreign(list(found))


@contextlib.contextmanager
def _profiled_by(look: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    """Have a function look on; garbage, whose finalizers may be anybody's, waits.

    Raises:
        ModelUnsupportedError: a profiler looks on that cannot be put aside for a while.
    """
    before, collects = sys.getprofile(), gc.isenabled()
    if not (before is None or callable(before) or hasattr(before, "enable")):
        raise ModelUnsupportedError(
            f"a profiler is on ({type(before).__name__}), and whether the resident model runs its own code cannot be "
            "seen beside it; expected none that looks at Python's stack: turn it off (with_stack of torch.profiler)"
        )
    gc.disable()
    sys.setprofile(look)
    try:
        yield
    finally:
        if before is None or callable(before):
            sys.setprofile(before)
        else:  # cProfile's, which is no function
            before.enable()
        if collects:
            gc.enable()


def _foreign(found: list[str]) -> ModelUnsupportedError:
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return ModelUnsupportedError(
        f"the resident model ran {found[0]}{more}: expected code of PyTorch and transformers alone, as nothing can be "
        "held against a reference that runs somebody else's. What a system replaces for the whole process it has to "
        "replace in open(), which comes after the reference, and not when its module is imported"
    )


def _is_own(frame: FrameType) -> bool:
    home = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    if home not in _OWN and home not in sys.stdlib_module_names:
        return False
    written, file = frame.f_code.co_filename, frame.f_globals.get("__file__")
    return file is None or written.startswith("<") or PurePath(written).name == PurePath(file).name


def _find_replaced(place: Place, kept: Mapping[str, Any]) -> list[_Replaced]:
    """Return the code that was replaced. What a module has got since is let be: others may be imported into it."""
    there = dict(vars(place))
    names = kept.keys() | there.keys() if isinstance(place, type) else kept.keys()
    found = [_Replaced(place, name, kept.get(name, _NONE), there.get(name, _NONE)) for name in names]
    return [one for one in found if one.new is not one.old and _is_code(one.new if one.old is _NONE else one.old)]


def _put(place: Place, name: str, value: Any) -> None:
    if value is _NONE:
        delattr(place, name)
    else:
        setattr(place, name, value)


@contextlib.contextmanager
def _no_global_hooks() -> Iterator[None]:
    kinds = [value for name, value in vars(module_hooks).items() if name.startswith("_global_")]
    hooks = [(kind, dict(kind)) for kind in kinds if isinstance(kind, dict)]
    for kind, _ in hooks:
        kind.clear()
    try:
        yield
    finally:
        for kind, there in hooks:
            kind.update(there)


def _find_kinds(model: nn.Module) -> list[type]:
    """Return the classes in which a model's forward looks methods up."""
    return [torch.Tensor, *dict.fromkeys(kind for module in model.modules() for kind in type(module).__mro__[:-1])]


def _find_libraries() -> list[ModuleType]:
    """Return all modules whose functions a forward may come by."""
    named = [(name, module) for name, module in sys.modules.items() if isinstance(module, ModuleType)]
    return [module for name, module in named if name == "torch" or name.startswith(("torch.nn.", "transformers."))]


def _is_code(value: Any) -> bool:
    return callable(value) or hasattr(value, "__get__")
