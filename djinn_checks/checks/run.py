"""What every check does around its own work: find the device, build the system, tell how far it is, and settle what
went wrong."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import torch

from djinn_checks.checks.conclude import Facts, conclude_early
from djinn_checks.checks.place import find_place, name_place
from djinn_checks.checks.refusals import system_says_no
from djinn_checks.devices import choose_device
from djinn_checks.errors import CapacityError, ModelUnsupportedError, ParamsError, SystemUnavailableError
from djinn_checks.models.open import Model
from djinn_checks.outcome import Failure, Outcome, Row, Status
from djinn_checks.systems.base import System
from djinn_checks.units import format_bytes

_THREADS_END_S = 1.0
"""Time that threads get to end after a system was closed."""

SystemFactory = Callable[..., System]
"""Called as a subclass of `System` is: (model, device=, budget_bytes=)."""

Clock = Callable[[], float]

Progress = Callable[[str, float, float], None]
"""Called with the stage, what is done of it and what is to do: prompts, seconds, or 0 of 1 for a stage that is one."""


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

    return _settle(check, params, on_device, clock)


def run_elsewhere(
    check: str,
    params: Any,
    work: Callable[[Facts, Progress, Any], Outcome],
    progress: Progress | None,
    save_to: Any,
    *,
    clock: Clock = time.monotonic,
) -> Outcome:
    """Run a check's work in processes of its own, with no device in this one; settled as by `run_check`.

    Raises:
        ParamsError: a parameter turned out impossible before any weights were loaded.
    """
    return _settle(check, params, lambda facts: work(facts, progress or no_progress, save_to), clock)


def _settle(check: str, params: Any, work: Callable[[Facts], Outcome], clock: Clock) -> Outcome:
    started_at, started = datetime.now(UTC).isoformat(timespec="seconds"), clock()
    facts: Facts = {"params": params.model_dump(), "started_at": started_at}
    there = set(threading.enumerate())
    try:
        outcome = work(facts)
    except ParamsError:
        raise
    except SystemUnavailableError as error:
        outcome = _unavailable(check, params, error, facts)
    except ModelUnsupportedError as error:
        outcome = _unsupported(check, error, facts)
    except Exception as error:
        place = find_place(error)
        summary = f"{params.system} on {params.model}: {type(error).__name__}: {error}{name_place(place)}"
        file, line = (place.file, place.line) if place else ("", None)
        failure = Failure.from_exception(error, file=file, line=line)
        outcome = Outcome(check=check, status=Status.ERROR, summary=summary, failure=failure, **facts)
    outcome = replace(outcome, timings={**outcome.timings, "total_s": clock() - started})
    left = name_threads_left(there)
    if not left:
        return outcome
    system = outcome.environment.get("system")
    told = {**(system if isinstance(system, dict) else {}), "threads_left": left}
    return replace(outcome, environment={**outcome.environment, "system": told})


def name_threads_left(there: Collection[threading.Thread]) -> list[str]:
    """Return the names of threads that run and were not there before; those that are about to end are waited for.

    A progress bar's thread is left out: tqdm has one for the whole process, whoever draws the first bar.
    """
    started = [thread for thread in threading.enumerate() if thread not in there]
    started = [thread for thread in started if type(thread).__module__.partition(".")[0] != "tqdm"]
    deadline = time.monotonic() + _THREADS_END_S
    for thread in started:
        thread.join(max(deadline - time.monotonic(), 0.0))
    return sorted(thread.name for thread in started if thread.is_alive())


def no_progress(stage: str, done: float, total: float) -> None:
    """Tell nobody."""


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
            return factory(model, device=device, budget_bytes=budget_bytes, **options), budget_bytes
    except CapacityError as error:
        field = "budget_gb" if params.budget_gb is not None else "budget_fraction"
        given = params.budget_gb if params.budget_gb is not None else params.budget_fraction
        raise ParamsError(
            f"{field}: {given if given is not None else 'its default'} of {params.model} "
            f"({format_bytes(model.weight_bytes)}) is {format_bytes(budget_bytes)}, too little for "
            f"system {params.system!r}: {error}"
        ) from error


def read_environment(device: torch.device, system: str = "") -> dict[str, Any]:
    """Return machine and software, the checked system's among it; the instrument is loaded only when a check runs."""
    from djinn_checks.instruments import environment

    return dict(environment.read_environment(device, system=system))


def release_memory(device: torch.device) -> None:
    """Give back what nobody refers to any more, to the device and not only to the allocator."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _unavailable(check: str, params: Any, error: SystemUnavailableError, facts: Facts) -> Outcome:
    said = f"{error}{name_place(find_place(error))}"
    row = Row("system_available", f"System {params.system!r} can run what was asked on this machine", unit="")
    criterion = row.judge(
        None,
        "==",
        True,
        evidence="what it said when it was built or opened",
        missing=said,
    )
    return conclude_early(check, criterion, said, facts)


def _unsupported(check: str, error: ModelUnsupportedError, facts: Facts) -> Outcome:
    row = Row("model_supported", "The model is of a kind that a check can decide about", unit="")
    evidence = "its configuration, its files' headers and a forward without weights"
    return conclude_early(check, row.judge(None, "==", True, evidence=evidence, missing=str(error)), str(error), facts)
