"""What a system says in words when it is opened is its refusal; what nobody means to say is a crash."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from djinn_checks.checks.refusals import open_system
from djinn_checks.errors import CapacityError, ModelCorruptError, SystemRefusedError


def opened(error: Exception) -> Any:
    def fail() -> Any:
        raise error

    return open_system(SimpleNamespace(name="mine", open=fail))  # type: ignore[arg-type]


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
