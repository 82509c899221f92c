"""The runs that make up a matrix: a fault, a dose of one, a clean system; here, or several at a time elsewhere.

On a CPU they run in processes of their own with one thread each, as many as keep the cores busy: most of an
agent's run is waiting. On a GPU they run here, one after the other: they share its link and its memory.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Literal

import torch

from djinn_checks.faults.agents.nursery import join_nursery, own_nursery
from djinn_checks.faults.base import Fault, find_faults, is_caught
from djinn_checks.faults.clean import CLEAN
from djinn_checks.outcome import Failure, Outcome, Status


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run, or as many as the luck of a fault needs."""

    kind: Literal["fault", "dose", "clean"]
    name: str
    """Of the fault, or of the clean run."""
    size: float = 0.0
    """The dose, or the number of the clean run."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What came of a task."""

    task: Task
    status: Status
    caught: bool
    """The named criterion caught the fault; of a clean run, that it raised an alarm."""
    alarms: tuple[str, ...]
    """Required criteria that did not pass, in the check's order; of a clean run, what it was accused of."""
    failed: tuple[str, ...]
    """Those of them that are FAIL."""
    reason: str
    """What the named criterion said; of a clean run, what it was accused of, or else why it has no verdict."""
    attempts: int
    seconds: float
    turns: int | None = None
    """Of an agents check in which an agent said something wrong: how many turns it took, those of earlier attempts
    included. None of other checks, and if only something else was wrong."""
    undecided: bool = False
    """Of a clean run: nothing was said against it, but not all of it was decided."""


def run_tasks(tasks: Sequence[Task], faults: Sequence[Fault], device: torch.device, at_once: int) -> Iterator[Ran]:
    """Run tasks and return what came of each, as they end.

    Args:
        faults: those that the tasks name.
        at_once: how many run at a time in processes of their own, which find the faults by their entry points; 0: here,
            one after the other.
    """
    if not at_once:
        known = {fault.name: fault for fault in faults}
        yield from (run_task(task, known.get(task.name), device) for task in tasks)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["djinn_checks.faults.tasks", "accelerate", "transformers.models.llama.modeling_llama"]
    )
    shared = own_nursery() if _start_servers(tasks, faults) else None
    begin = (_be_small, (shared.folder, shared.pid) if shared else ())
    with ProcessPoolExecutor(at_once, context, *begin) as pool:
        try:
            # Mixed, so that those that wait and those that compute run beside each other.
            mixed = random.Random(0).sample(tasks, len(tasks))
            found: list[Future[Ran]] = [pool.submit(_run_by_name, task, str(device)) for task in mixed]
            for future in as_completed(found):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def how_many_at_once(device: torch.device) -> int:
    """Return how many tasks keep this machine busy: half as many more than it has cores, and none beside a GPU."""
    return 0 if device.type == "cuda" else max(2, 3 * (os.cpu_count() or 1) // 2)


def run_task(task: Task, fault: Fault | None, device: torch.device) -> Ran:
    """Run one task here."""
    started = time.monotonic()
    if task.kind == "clean":
        return _run_clean(task, device, started)
    if fault is None:
        raise LookupError(f"the fault {task.name!r} is not among those that were given")
    outcome, tried, before = _try(task, fault, device), 1, 0
    while not is_caught(fault, outcome) and tried < fault.attempts:
        before += _crowd_turns(outcome)
        outcome, tried = _try(task, fault, device), tried + 1
    until = turns_until_wrong(outcome, fault.caught_by)
    return Ran(
        task=task,
        status=outcome.status,
        caught=is_caught(fault, outcome),
        alarms=_alarms(outcome),
        failed=tuple(row.name for row in outcome.criteria if row.required and row.status is Status.FAIL),
        reason=_reason(fault, outcome),
        attempts=tried,
        turns=None if until is None else before + until,
        seconds=time.monotonic() - started,
    )


def turns_until_wrong(outcome: Outcome, caught_by: str) -> int | None:
    """Return how many turns it took until an answer was wrong, of the crowd if that is what the criterion is about."""
    found = outcome.timings.get("first_wrong") or {}
    return found.get("crowd" if caught_by.startswith(("crowd_", "code_words_")) else "sleeper")


def _crowd_turns(outcome: Outcome) -> int:
    return int((outcome.timings.get("first_wrong") or {}).get("crowd_turns") or 0)


def _run_by_name(task: Task, device: str) -> Ran:
    fault = None if task.kind == "clean" else find_faults(name=task.name)[0]
    return run_task(task, fault, torch.device(device))


def _start_servers(tasks: Sequence[Task], faults: Sequence[Fault]) -> bool:
    """Tell whether agent servers are started for any of these tasks."""
    checks = {fault.name: fault.check for fault in faults}
    checks |= {name: clean.check for name, clean in CLEAN.items()}
    return any(checks[task.name] == "agents" for task in tasks)


def _be_small(*nursery: Any) -> None:
    """Begin a process of the pool: one thread, and the nursery that all of them share, if there is one."""
    torch.set_num_threads(1)
    if nursery:
        join_nursery(*nursery)


def _run_clean(task: Task, device: torch.device, started: float) -> Ran:
    clean = CLEAN[task.name]
    try:
        outcome = clean.run(int(task.size), device)
    except Exception as error:
        outcome = _failed(clean.check, f"run {task.size:g} could not be made: {error}", error)
    alarms, doubts = clean.alarms(outcome, device), clean.doubts(outcome, device)
    return Ran(
        task=task,
        status=outcome.status,
        caught=bool(alarms),
        alarms=alarms,
        failed=(),
        # The claims repeat what the first row doubts.
        reason="; ".join(alarms or doubts[:1]),
        attempts=1,
        seconds=time.monotonic() - started,
        undecided=bool(doubts) and not alarms,
    )


def _try(task: Task, fault: Fault, device: torch.device) -> Outcome:
    """Run the check; a fault that cannot even be planted is an ERROR, and catches nothing."""
    try:
        if task.kind == "dose" and fault.doses is not None:
            return fault.doses.run(task.size, device)
        return fault.run(device)
    except Exception as error:
        return _failed(fault.check, f"{fault.name} could not be planted: {error}", error)


def _failed(check: str, summary: str, error: Exception) -> Outcome:
    return Outcome(check=check, status=Status.ERROR, summary=summary, failure=Failure.from_exception(error))


def _alarms(outcome: Outcome) -> tuple[str, ...]:
    quiet = (Status.PASS, Status.SKIP)
    return tuple(row.name for row in outcome.criteria if row.required and row.status not in quiet)


def _reason(fault: Fault, outcome: Outcome) -> str:
    if outcome.failure is not None:
        return f"the check crashed, which catches nothing: {outcome.failure.type}: {outcome.failure.message}"
    row = next((row for row in outcome.criteria if row.name == fault.caught_by), None)
    if row is None:
        return f"{fault.caught_by} was not judged: {outcome.summary}"
    return row.reason or f"{row.name} is {row.status}"
