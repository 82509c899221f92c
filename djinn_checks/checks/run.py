"""What a check does around its work on a device: find the device, build the system, give back memory."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch

from djinn_checks.checks.conclude import Facts
from djinn_checks.checks.refusals import system_says_no
from djinn_checks.checks.settle import Clock, read_environment, settle_work
from djinn_checks.devices import choose_device
from djinn_checks.errors import CapacityError, ParamsError
from djinn_checks.models.open import Model
from djinn_checks.outcome import Outcome
from djinn_checks.systems.base import System
from djinn_checks.units import format_bytes

SystemFactory = Callable[..., System]
"""Called as a subclass of `System` is: (model, device=, budget_bytes=)."""


def run_check(
    check: str,
    params: Any,
    work: Callable[[torch.device, Facts], Outcome],
    *,
    clock: Clock = time.monotonic,
) -> Outcome:
    """Run a check's work on the device that its params name, and return the outcome whatever happens.

    A system that cannot run here (wrong hardware, package not installed) or that says no to what it was asked to
    run is INCONCLUSIVE, and so is a model of a kind that no check can decide about. Whatever else goes wrong after
    the parameters were accepted is an ERROR with its traceback, not an exception.

    Args:
        params: with `device`, `system` and `model`.
        work: makes the outcome from the device and the facts, which it passes on.
        clock: gives seconds; for the timings only.

    Raises:
        ParamsError: a parameter turned out impossible before any weights were loaded.
    """

    def on_device(facts: Facts) -> Outcome:
        device = choose_device(params.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # streams, events and pinned memory go with the current device
        facts["environment"] = read_environment(device, params.system)
        return work(device, facts)

    return settle_work(check, params, on_device, clock)


def build_system(
    factory: SystemFactory, params: Any, model: Model, device: torch.device, **options: Any
) -> tuple[System, int]:
    """Return the system, planned but not opened, and its budget in bytes.

    Args:
        params: of a check of a system that streams weights.
        options: passed on to the system.

    Raises:
        ParamsError: the budget cannot hold what the system needs, or holds the whole model.
    """
    budget_bytes: int = params.budget_bytes(model.weight_bytes)
    if budget_bytes >= model.weight_bytes:
        raise ParamsError(
            f"budget: {format_bytes(budget_bytes)} hold all of {params.model} ({format_bytes(model.weight_bytes)}), so "
            "nothing has to be streamed and nothing could be proved; give a smaller budget"
        )
    if budget_bytes >= model.used_bytes:
        raise ParamsError(
            f"budget: {format_bytes(budget_bytes)} hold all that token ids use of {params.model} "
            f"({format_bytes(model.used_bytes)} of {format_bytes(model.weight_bytes)}), so nothing has to be streamed "
            "and nothing could be proved; give a smaller budget"
        )
    try:
        with system_says_no(params.system, getattr(factory, "__module__", "")):
            return factory(model.lent(), device=device, budget_bytes=budget_bytes, **options), budget_bytes
    except CapacityError as error:
        field = "budget_gb" if params.budget_gb is not None else "budget_fraction"
        given = params.budget_gb if params.budget_gb is not None else params.budget_fraction
        raise ParamsError(
            f"{field}: {given if given is not None else 'its default'} of {params.model} "
            f"({format_bytes(model.weight_bytes)}) is {format_bytes(budget_bytes)}, too little for "
            f"system {params.system!r}: {error}"
        ) from error


def release_memory(device: torch.device) -> None:
    """Give back what nobody refers to any more, to the device and not only to the allocator."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
