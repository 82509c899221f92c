"""The logits check: a system that streams weights must say what the resident model says, and must stream.

The same prompts go through the resident model (twice: its second run is the noise floor) and, after its
memory is given back, several times through the system. Logits are compared prompt by prompt against the
reference's on disk. The weights' bytes are witnessed at the point of use, in both.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from djinn_checks.attention import reproducible_attention
from djinn_checks.checks.conclude import Anatomy, Facts, conclude
from djinn_checks.checks.contract import vet_built
from djinn_checks.checks.logits.bench import LogitsBench
from djinn_checks.checks.logits.criteria import judge_evidence
from djinn_checks.checks.logits.evidence import LogitsEvidence
from djinn_checks.checks.logits.link import LinkWatch
from djinn_checks.checks.logits.measurements import gather_measurements, summarize
from djinn_checks.checks.logits.prompt_run import Prompt
from djinn_checks.checks.logits.spool import LogitSpool
from djinn_checks.checks.logits.watch import WatchPlan, draw_watch
from djinn_checks.checks.prompts import check_room, select_prompts
from djinn_checks.checks.run import SystemFactory, build_system, release_memory, run_check
from djinn_checks.checks.settle import Clock, Progress, no_progress
from djinn_checks.devices import choose_dtype
from djinn_checks.errors import ParamsError
from djinn_checks.instruments.memory_place import PlaceOf
from djinn_checks.models.open import Model, open_model
from djinn_checks.models.own_code import OwnCode
from djinn_checks.outcome import Outcome
from djinn_checks.params import LogitsParams
from djinn_checks.systems.base import find_system

ANATOMY = Anatomy(
    check="logits", judge_evidence=judge_evidence, gather_measurements=gather_measurements, summarize=summarize
)


def check_logits(
    params: LogitsParams,
    *,
    system_factory: SystemFactory | None = None,
    clock: Clock = time.monotonic,
    progress: Progress | None = None,
    link: LinkWatch | None = None,
    place_of: PlaceOf | None = None,
) -> Outcome:
    """Decide whether a system's logits equal the resident model's while it streams the weights.

    What goes wrong after the parameters were accepted is settled as `run_check` says.

    Args:
        params: what to run.
        system_factory: makes the system in place of the one registered under `params.system`.
        clock: gives seconds; for the timings only.
        progress: called with (stage, done, total) as prompts finish.
        link: counts from outside the process; None: the counters and the driver of this machine's GPU.
        place_of: tells where memory lies; None: asks the driver.

    Raises:
        ParamsError: the system is not registered, or the budget cannot hold what it needs; raised before
            any weights are loaded.
    """

    def work(device: torch.device, facts: Facts) -> Outcome:
        factory = system_factory or find_system(params.system)
        with reproducible_attention():
            outside = _Outside(link or LinkWatch(device), place_of)
            return _run(params, factory, device, clock, progress or no_progress, facts, outside)

    return run_check(ANATOMY.check, params, work, clock=clock)


@dataclass(frozen=True)
class _Outside:
    """Instruments that a test may put in the place of this machine's."""

    link: LinkWatch
    place_of: PlaceOf | None


def _run(
    params: LogitsParams,
    factory: SystemFactory,
    device: torch.device,
    clock: Clock,
    progress: Progress,
    facts: Facts,
    outside: _Outside,
) -> Outcome:
    model = open_model(params.model, dtype=choose_dtype(params.dtype, device), device=device, seed=params.seed)
    own = OwnCode(model.skeleton())
    system, budget_bytes = build_system(factory, params, model, device)
    vet_built(system)
    prompts = _encode(params, model, device)
    plan = _draw(prompts, params, model)
    with tempfile.TemporaryDirectory(prefix="djinn-checks-") as folder:
        bench = LogitsBench(
            params=params,
            prompts=prompts,
            plan=plan,
            spool=LogitSpool(Path(folder)),
            clock=clock,
            progress=progress,
            now=time.monotonic,
            place_of=outside.place_of,
            after_forward=outside.link.look,
            encodes=system.encodes,
            as_it_was=own.restored,
        )
        loaded = clock()
        with own.restored(), torch.inference_mode(False), torch.autocast(device.type, enabled=False):
            reference = bench.measure_reference(lambda: model.resident(device), device)
        release_memory(device)
        measured = clock()
        with outside.link.watching():
            run = bench.measure_system(system, reference)
        timings = {
            "reference_s": measured - loaded,
            "system_s": clock() - measured,
            "passes_s": [run_pass.seconds for run_pass in run.passes],
            "watch_seed": plan.seed,
            "watched": [str(found.place) for found in run.watched],
        }
    evidence = LogitsEvidence(
        params=params,
        prompts=prompts,
        plan=plan,
        budget_bytes=budget_bytes,
        reference=reference,
        system=run,
        link=outside.link.evidence(),
    )
    return conclude(ANATOMY, evidence, facts, timings=timings)


def _draw(prompts: tuple[Prompt, ...], params: LogitsParams, model: Model) -> WatchPlan:
    return draw_watch(
        prompts,
        passes=params.passes,
        decode_tokens=params.decode_tokens,
        encode=model.encode,
        count=params.watched_forwards,
        seed=params.watch_seed,
    )


def _encode(params: LogitsParams, model: Model, device: torch.device) -> tuple[Prompt, ...]:
    prompts = []
    for index, text in enumerate(select_prompts(params.prompts)):
        ids = model.encode(text, params.max_prompt_tokens)
        if not len(ids):
            raise ParamsError(f"prompts: prompt {index} ({text[:40]!r}) gives no tokens; give it some text")
        room = None if model.positions is None else model.positions - params.decode_tokens
        check_room(model, len(ids) + params.decode_tokens, f"give max_prompt_tokens: {room} or fewer decode_tokens")
        prompts.append(Prompt(index, text, torch.tensor([list(ids)], dtype=torch.int64, device=device)))
    return tuple(prompts)
