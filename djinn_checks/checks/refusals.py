"""A system that says no is told apart from one that breaks.

A ring that is smaller than the model, a machine without an accelerator: a system notices them when it is built or
opened and says so. That is no crash of a check and no verdict about the system's claims: the evidence is missing, which
is INCONCLUSIVE, with the system's own words as the reason. What it raises later, in a forward, is a crash, and so is
what nobody raises on purpose, wherever it comes from.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch

from djinn_checks.checks.contract import vet_built, vet_opened
from djinn_checks.errors import CapacityError, DjinnChecksError, SystemRefusedError
from djinn_checks.systems.base import System

_log = logging.getLogger(__name__)

_SAYS_NO = (ValueError, RuntimeError, MemoryError, OSError, ImportError, AssertionError)
"""What Python programs raise to say that they cannot do what they were asked. A TypeError, an AttributeError, a
KeyError and the like are mistakes in a program."""

_CRASHES = (
    torch.OutOfMemoryError,
    getattr(torch, "AcceleratorError", torch.OutOfMemoryError),  # since PyTorch 2.8
    NotImplementedError,
    RecursionError,
    UnicodeError,
)
"""Of these kinds, and no refusal: a device that fails or is full, an operation that PyTorch has no kernel for."""

_MISTAKES = (TypeError, AttributeError, LookupError, NameError, ArithmeticError, SyntaxError)
"""An exception of a system's own that is also of one of these tells of a mistake."""


@contextlib.contextmanager
def system_says_no(name: str, home: str = "") -> Iterator[None]:
    """Take what a foreign system raises in words, while it is built or opened, for its refusal.

    Args:
        name: of the system, for the message.
        home: the module of its class. An exception that the same package defines was made to be said, whatever it
            derives from.

    Raises:
        SystemRefusedError: in place of it.
    """
    try:
        yield
    except (DjinnChecksError, *_CRASHES):
        raise
    except Exception as error:
        if not str(error) or not (isinstance(error, _SAYS_NO) or _is_own(error, home)):
            raise
        _log.info("system %r refused", name, exc_info=error)
        raise SystemRefusedError(
            f"system {name!r} refused, in its own words: {error} ({type(error).__name__})"
        ) from error


def _is_own(error: Exception, home: str) -> bool:
    outermost = type(error).__module__.partition(".")[0]
    return outermost == home.partition(".")[0] and not isinstance(error, _MISTAKES)


def open_system(system: System) -> Any:
    """Open a system and return its model.

    Raises:
        SystemRefusedError: it says no.
        SystemContractError: it lacks what every system has, or gives nothing that can be called.
    """
    vet_built(system)
    try:
        with system_says_no(system.name, type(system).__module__):
            return vet_opened(system.open(), system.name)
    except CapacityError as error:
        raise SystemRefusedError(f"system {system.name!r} refused, in its own words: {error}") from error
