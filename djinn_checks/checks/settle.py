"""What every check does with what went wrong, and with the time it took. No device is needed for that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from djinn_checks.checks.conclude import Facts, conclude_early
from djinn_checks.checks.place import find_place, name_place
from djinn_checks.errors import ModelUnsupportedError, ParamsError, SystemUnavailableError
from djinn_checks.outcome import Failure, Outcome, Row, Status

if TYPE_CHECKING:
    import torch

_THREADS_END_S = 1.0
"""Time that threads get to end after a system was closed."""

Clock = Callable[[], float]

Progress = Callable[[str, float, float], None]
"""Called with the stage, what is done of it and what is to do: prompts, seconds, or 0 of 1 for a stage that is one."""


def _vet_params(check: str, params: Any) -> None:
    """Refuse what are no parameters of that check.

    Raises:
        ParamsError: they are another's, or none.
    """
    if getattr(params, "check", None) == check and hasattr(params, "model_dump"):
        return
    expected = f"{check.title()}Params"
    kind = type(params).__name__
    how = f"{expected}.create(**values)" if isinstance(params, Mapping) else f"{expected}.create(name=value)"
    raise ParamsError(f"check_{check}: expected {expected}, got {kind}; make them by {how}")


def settle_work(check: str, params: Any, work: Callable[[Facts], Outcome], clock: Clock) -> Outcome:
    """Run a check's work and return the outcome whatever happens, with the time that it took.

    Args:
        params: with `system` and `model`.
        work: makes the outcome from the facts, which it passes on and may add to.
        clock: gives seconds; for the timings only.

    Raises:
        ParamsError: a parameter turned out impossible before any weights were loaded.
    """
    _vet_params(check, params)
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


def read_environment(device: torch.device | None, system: str = "") -> dict[str, Any]:
    """Return machine and software, the checked system's among it; the instrument is loaded only when a check runs.

    Args:
        device: what the check runs on; None if nothing is computed, as in a replay.
    """
    from djinn_checks.instruments import environment

    return dict(environment.read_environment(device, system=system))


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
