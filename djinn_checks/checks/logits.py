"""The logits check: a system that streams weights must say what the resident model says, and must stream.

The same prompts go through the resident model (twice: its second run is the noise floor) and, after its
memory is given back, several times through the system. Logits are compared prompt by prompt against the
reference's on disk. The weights' bytes are witnessed at the point of use, in both.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from djinn_checks.attention import reproducible_attention
from djinn_checks.checks.logit_criteria import LogitsEvidence, judge_logits
from djinn_checks.checks.logit_measure import LogitsBench, Progress, release_memory
from djinn_checks.checks.logit_measurements import gather_measurements, summarize
from djinn_checks.checks.logit_prompts import select_prompts
from djinn_checks.checks.logit_run import Prompt
from djinn_checks.checks.logit_spool import LogitSpool
from djinn_checks.errors import CapacityError, ParamsError, SystemUnavailableError
from djinn_checks.models import Model, open_model
from djinn_checks.outcome import Failure, Outcome, Status, judge, settle
from djinn_checks.params import LogitsParams
from djinn_checks.systems.base import System, find_system
from djinn_checks.units import format_bytes

SystemFactory = Callable[..., System]
"""Called as a subclass of `System` is: (model, device=, budget_bytes=)."""


def check_logits(
    params: LogitsParams,
    *,
    system_factory: SystemFactory | None = None,
    clock: Callable[[], float] = time.monotonic,
    progress: Progress | None = None,
) -> Outcome:
    """Decide whether a system's logits equal the resident model's while it streams the weights.

    A system that cannot run here (wrong hardware, package not installed) is INCONCLUSIVE. Whatever else
    goes wrong after the parameters were accepted is an ERROR with its traceback, not an exception.

    Args:
        params: what to run.
        system_factory: makes the system in place of the one registered under `params.system`.
        clock: gives seconds; for the timings only.
        progress: called with (stage, done, total) as prompts finish.

    Raises:
        ParamsError: the system is not registered, or the budget cannot hold what it needs; raised before
            any weights are loaded.
    """
    started_at, started = datetime.now(UTC).isoformat(timespec="seconds"), clock()
    facts: dict[str, Any] = {"params": params.model_dump(), "started_at": started_at}
    factory = system_factory or find_system(params.system)
    try:
        device = resolve_device(params.device)
        facts["environment"] = _read_environment(device)
        with reproducible_attention():
            outcome = _run(params, factory, device, clock, progress or _no_progress, facts)
    except ParamsError:
        raise
    except SystemUnavailableError as error:
        outcome = _unavailable(params, error, facts)
    except Exception as error:
        summary = f"{params.system} on {params.model}: {type(error).__name__}: {error}"
        failure = Failure.from_exception(error)
        outcome = Outcome(check="logits", status=Status.ERROR, summary=summary, failure=failure, **facts)
    return replace(outcome, timings={**outcome.timings, "total_s": clock() - started})


def resolve_device(name: str) -> torch.device:
    """Return the device of a params' name; "auto" is the first GPU, or else the CPU.

    Raises:
        SystemUnavailableError: a GPU was asked for by name and is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise SystemUnavailableError(
            f"device: {name!r} was asked for, and PyTorch sees {count} GPU(s); use auto or cpu"
        )
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def _run(
    params: LogitsParams,
    factory: SystemFactory,
    device: torch.device,
    clock: Callable[[], float],
    report: Progress,
    facts: dict[str, Any],
) -> Outcome:
    model = open_model(params.model, dtype=getattr(torch, params.dtype), device=device, seed=params.seed)
    budget_bytes = params.budget_bytes(model.weight_bytes)
    system = _build_system(factory, params, model, device, budget_bytes)
    prompts = _encode(params, model, device)
    with tempfile.TemporaryDirectory(prefix="djinn-checks-") as folder:
        bench = LogitsBench(
            params=params,
            prompts=prompts,
            spool=LogitSpool(Path(folder)),
            clock=clock,
            report=report,
        )
        loaded = clock()
        reference = bench.measure_reference(lambda: model.resident(device), device)
        release_memory(device)
        measured = clock()
        run = bench.measure_system(system, reference)
        timings = {
            "reference_s": measured - loaded,
            "system_s": clock() - measured,
            "passes_s": [one.seconds for one in run.passes],
        }
    evidence = LogitsEvidence(params=params, budget_bytes=budget_bytes, reference=reference, system=run)
    criteria = judge_logits(evidence)
    status = settle(criteria)
    return Outcome(
        check="logits",
        status=status,
        summary=summarize(evidence, criteria, status),
        criteria=criteria,
        measurements=gather_measurements(evidence, prompts),
        timings=timings,
        **facts,
    )


def _build_system(
    factory: SystemFactory, params: LogitsParams, model: Model, device: torch.device, budget_bytes: int
) -> System:
    try:
        return factory(model, device=device, budget_bytes=budget_bytes)
    except CapacityError as error:
        field = "budget_gb" if params.budget_gb is not None else "budget_fraction"
        given = params.budget_gb if params.budget_gb is not None else params.budget_fraction
        raise ParamsError(
            f"{field}: {given if given is not None else 'its default'} of {params.model} "
            f"({format_bytes(model.weight_bytes)}) is {format_bytes(budget_bytes)}, too little for "
            f"system {params.system!r}: {error}"
        ) from error


def _encode(params: LogitsParams, model: Model, device: torch.device) -> tuple[Prompt, ...]:
    prompts = []
    for index, text in enumerate(select_prompts(params.prompts)):
        ids = model.encode(text, params.max_prompt_tokens)
        if not len(ids):
            raise ParamsError(f"prompts: prompt {index} ({text[:40]!r}) gives no tokens; give it some text")
        prompts.append(Prompt(index, text, torch.tensor([list(ids)], dtype=torch.int64, device=device)))
    return tuple(prompts)


def _unavailable(params: LogitsParams, error: SystemUnavailableError, facts: dict[str, Any]) -> Outcome:
    row = judge(
        "system_available",
        f"System {params.system!r} can run on this machine",
        None,
        "==",
        True,
        unit="",
        evidence="what it said when it was built or opened",
        missing=str(error),
    )
    return Outcome(check="logits", status=Status.INCONCLUSIVE, summary=str(error), criteria=(row,), **facts)


def _read_environment(device: torch.device) -> dict[str, Any]:
    from djinn_checks.instruments.environment import read_environment

    return dict(read_environment(device))


def _no_progress(stage: str, done: int, total: int) -> None:
    """Report to nobody."""
