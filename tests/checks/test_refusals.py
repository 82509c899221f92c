"""What a system says in words when it is opened is its refusal; what nobody means to say is a crash."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from djinn_checks.checks.refusals import open_system
from djinn_checks.errors import CapacityError, ModelCorruptError, SystemRefusedError


class LicenceError(Exception):
    """What a system's own package raises."""


class LayerMissingError(KeyError):
    """What it raises for a mistake."""


class Mine:
    """A system that will not open."""

    name = "mine"

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.model, self.device, self.budget_bytes = None, torch.device("cpu"), 1

    def open(self) -> Any:
        raise self.error


def opened(error: Exception) -> Any:
    def fail() -> Any:
        raise error

    system: Any = SimpleNamespace(name="mine", model=None, device=torch.device("cpu"), budget_bytes=1, open=fail)
    return open_system(system)


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, OSError, ImportError, AssertionError, CapacityError])
def test_words_are_a_refusal(kind: type[Exception]) -> None:
    with pytest.raises(SystemRefusedError, match="system 'mine' refused, in its own words: the ring is too small"):
        opened(kind("the ring is too small"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no memory left"),
        NotImplementedError("no kernel"),
        TypeError("None + 1"),
        KeyError("a"),
        ModelCorruptError("a file is cut short"),
        RecursionError("too deep"),
        ValueError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_breaks_is_none(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        opened(error)
    assert raised.value is error


def test_words_of_an_exception_of_the_system_s_own_package_are_a_refusal() -> None:
    with pytest.raises(SystemRefusedError, match=r"in its own words: no licence for this machine \(LicenceError\)"):
        open_system(Mine(LicenceError("no licence for this machine")))  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [LayerMissingError("layer 7"), LicenceError()], ids=["a mistake", "no words"])
def test_an_exception_of_its_own_without_words_or_for_a_mistake_is_none(error: Exception) -> None:
    with pytest.raises(type(error)):
        open_system(Mine(error))  # type: ignore[arg-type]


def test_an_exception_of_another_package_is_none() -> None:
    with pytest.raises(LicenceError):
        opened(LicenceError("no licence for this machine"))
