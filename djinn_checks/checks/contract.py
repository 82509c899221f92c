"""What a system's `open` has to give back, looked at before anything is run with it.

A mistake in a system is told by its name, and early: a small model is opened once before the resident model is run, by
an instance of its own that is closed again. A large one is not loaded twice for the sake of that; there it is told when
the system is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.errors import SystemContractError
from djinn_checks.systems.base import System
from djinn_checks.units import GB

MOST_REHEARSED_BYTES = 1 * GB
"""Weights that are loaded once more, for a mistake to be told before the reference runs."""
_OURS = "djinn_checks"


def vet_opened(opened: Any, name: str) -> Any:
    """Return what `open` gave if it can be called.

    Raises:
        SystemContractError: it cannot be.
    """
    said = f"system {name!r}: open() returned"
    if opened is None:
        raise SystemContractError(f"{said} None; expected the model to call; is a `return` missing at its end?")
    if isinstance(opened, Mapping):
        kind = "weights" if any(isinstance(value, Tensor) for value in opened.values()) else "entries"
        raise SystemContractError(
            f"{said} a {type(opened).__name__} of {len(opened)} {kind}; expected the model to call, with its weights "
            "in place"
        )
    if not callable(opened):
        raise SystemContractError(f"{said} {type(opened).__name__}, which cannot be called; expected the model to call")
    if isinstance(opened, nn.Module) and type(opened).forward is nn.Module.forward and "forward" not in vars(opened):
        raise SystemContractError(f"{said} a {type(opened).__name__} without a forward; expected the model to call")
    return opened


def is_rehearsed(system: System, weight_bytes: int) -> bool:
    """Tell whether a system is opened once before the resident model runs: one of somebody's own, of a small model."""
    return type(system).__module__.partition(".")[0] != _OURS and weight_bytes <= MOST_REHEARSED_BYTES


def rehearse(make: Callable[[], System], open_it: Callable[[System], Any], device: torch.device) -> None:
    """Open a system of its own and close it again.

    Args:
        make: builds it.
        open_it: opens it, and raises what it raises in the check.
        device: whose memory is given back.
    """
    system = make()
    try:
        open_it(system)
    finally:
        system.close()
    if device.type == "cuda":
        torch.cuda.empty_cache()
