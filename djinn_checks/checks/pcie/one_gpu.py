"""One system on one device, and its link counted; without a GPU a link within host memory stands in."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from djinn_checks.attention import reproducible_attention
from djinn_checks.checks.conclude import Facts, conclude, conclude_early
from djinn_checks.checks.pcie.anatomy import ANATOMY, samples_path
from djinn_checks.checks.pcie.criteria import judge_vram_limit
from djinn_checks.checks.pcie.decode_loop import decode_stretches
from djinn_checks.checks.pcie.decode_run import DecodeRun
from djinn_checks.checks.pcie.evidence import HOST_MEMORY, PCIE, LinkFacts, PcieEvidence
from djinn_checks.checks.pcie.weights import KnownWeights, survey_weights
from djinn_checks.checks.prompts import check_room
from djinn_checks.checks.run import SystemFactory, build_system, release_memory, run_check
from djinn_checks.checks.settle import Clock, Progress
from djinn_checks.devices import choose_dtype
from djinn_checks.errors import InstrumentError, ParamsError, SystemUnavailableError
from djinn_checks.instruments.counters import CounterSampler, CounterSeries
from djinn_checks.instruments.link_ceiling import calibrate, measure_ceiling, sweep_chunks
from djinn_checks.instruments.memory import used_beside
from djinn_checks.instruments.preflight import PreflightRow, look_around
from djinn_checks.instruments.traces import save_trace
from djinn_checks.models.open import Model, open_model
from djinn_checks.outcome import Outcome
from djinn_checks.params import PcieParams
from djinn_checks.systems.base import System, find_system
from djinn_checks.units import GB, MIB, format_bytes

SWEEP_BYTES = tuple(2**power * MIB for power in range(10))
"""1 to 512 MiB."""
_RESTS = 0.5
"""Of the ceiling: a window with less is one in which the link rested, which no neighbour of a virtual machine does."""
_MOST_LOST = 0.05
"""Of the windows, before nothing can be said of the others."""


def check_stream(
    params: PcieParams,
    system_factory: SystemFactory | None,
    *,
    clock: Clock,
    progress: Progress,
    save_to: str | os.PathLike[str],
) -> Outcome:
    """Run a system on the device that its params name, and return the outcome; arguments and errors of `check_pcie`."""

    def work(device: torch.device, facts: Facts) -> Outcome:
        factory = system_factory or find_system(params.system)
        with reproducible_attention():
            return _run(params, factory, device, facts, progress, save_to)

    return run_check(ANATOMY.check, params, work, clock=clock)


def _run(
    params: PcieParams,
    factory: SystemFactory,
    device: torch.device,
    facts: Facts,
    progress: Progress,
    save_to: str | os.PathLike[str],
) -> Outcome:
    model = open_model(params.model, dtype=choose_dtype(params.dtype, device), device=device, seed=params.seed)
    check_room(model, params.context_tokens, f"give context_tokens: {model.positions} or less")
    used_before = used_beside(device)
    system, budget_bytes = _plan(params, factory, model, device)
    taken = max(0, used_beside(device) - used_before)  # or a neighbour's release would hide as much
    measure = _measure_on_gpu if device.type == "cuda" else _measure_on_host
    is_mixture = device.type == "cpu" and model.unrouted_bytes > 0  # whose experts are seen by their bytes alone
    known = survey_weights(model, device) if system.encodes or is_mixture else None
    try:
        with _vram_limit(params, device):
            evidence = measure(params, system, device, progress, known, taken)
    except torch.OutOfMemoryError as error:
        if params.vram_limit_gb is None:
            raise
        return _out_of_memory(params, params.vram_limit_gb, error, facts)
    if evidence.series is not None and save_to:
        save_trace(evidence.series, samples_path(save_to))
    evidence = replace(
        evidence,
        weight_bytes=model.weight_bytes,
        unrouted_bytes=model.unrouted_bytes + model.unpicked_bytes,
        budget_bytes=budget_bytes,
        encodes=system.encodes,
        floor=known.floor if known else None,
    )
    return conclude(ANATOMY, evidence, facts)


def _plan(params: PcieParams, factory: SystemFactory, model: Model, device: torch.device) -> tuple[System, int]:
    options = {} if params.resident_layers is None else {"resident_blocks": params.resident_layers}
    if options and not options.keys() <= inspect.signature(factory).parameters.keys():
        raise ParamsError(
            f"resident_layers: system {params.system!r} does not take a number of resident layers; leave it empty and "
            "give a budget"
        )
    return build_system(factory, params, model, device, **options)


def _measure_on_gpu(
    params: PcieParams,
    system: System,
    device: torch.device,
    progress: Progress,
    known: KnownWeights | None,
    taken_before: int,
) -> PcieEvidence:
    from djinn_checks.instruments.environment import find_uuid

    uuid = find_uuid(device)
    preflight = _look_around(system, uuid)
    sampler = CounterSampler(uuid, hz=params.sampler_hz, source=params.counters)
    with sampler:
        reasons = [f"{source}: {reason}" for source, reason in sampler.reasons.items()]
        progress("link", 0.0, 1.0)
        calibration = None
        try:
            calibration = calibrate(sampler, device)
        except InstrumentError as error:
            reasons.append(str(error))
        before = measure_ceiling(device)
        others = [
            measure_ceiling(device, direction="d2h"),
            measure_ceiling(device, direction="both"),
            measure_ceiling(device, pinned=False, samples=3),
        ]
        sizes = SWEEP_BYTES if params.sweep else ()
        sweep = [*sweep_chunks(device, sizes, pinned=True), *sweep_chunks(device, sizes, pinned=False)]
        release_memory(device)
        link = LinkFacts(
            subject=PCIE,
            ceiling_bytes_per_s=before.bytes_per_s,
            back_bytes_per_s=others[0].bytes_per_s,
            ceilings=(before, *others),
            sweep=tuple(sweep),
            preflight=preflight,
            calibration=calibration,
            reasons=tuple(reasons),
        )

        def again(start_s: float, end_s: float) -> bool:
            share = share_of_full(params, link, sampler.read(), start_s, end_s)
            return share is not None and share < params.ceiling_share

        runs = decode_stretches(system, params, device, progress, known=known, taken_before=taken_before, again=again)
        release_memory(device)
        after = measure_ceiling(device)
        series, health = sampler.read(), sampler.read_health()
    ceiling = max(before.bytes_per_s, after.bytes_per_s)
    link = replace(link, ceiling_bytes_per_s=ceiling, ceiling_after=after, health=health)
    shares = [share_of_full(params, link, series, run.start_s, run.end_s) for run in runs]
    best = max(range(len(runs)), key=lambda number: shares[number] or 0.0)
    run = replace(runs[best], stretches=tuple(shares))
    return _evidence(params, link, link.fit(series) if series else None, run)


def share_of_full(
    params: PcieParams, link: LinkFacts, series: CounterSeries | None, start_s: float, end_s: float
) -> float | None:
    """Return the share of windows that were as full as asked; None if the link rested, or too little is known of it."""
    if series is None:
        return None
    seen = PcieEvidence(
        params=params, link=link, series=link.fit(series), start_s=start_s, end_s=end_s, claimed_bytes=None
    )
    rates = seen.window_rates
    known = rates[~np.isnan(rates)] if rates is not None else np.zeros(0)
    if rates is None or not len(rates) or len(known) < (1 - _MOST_LOST) * len(rates):
        return None
    rested = np.mean(known < _RESTS * link.ceiling_bytes_per_s)
    full = np.mean(known >= params.ceiling_fraction * link.ceiling_bytes_per_s)
    return None if rested > 1 - params.ceiling_share else float(full)


def _measure_on_host(
    params: PcieParams,
    system: System,
    device: torch.device,
    progress: Progress,
    known: KnownWeights | None,
    taken_before: int,
) -> PcieEvidence:
    preflight = _look_around(system, None)
    before = measure_ceiling(device, nbytes=128 * MIB, samples=4)
    sizes = SWEEP_BYTES[:-1] if params.sweep else ()
    sweep = sweep_chunks(device, sizes, pinned=False)
    (run,) = decode_stretches(system, params, device, progress, known=known, taken_before=taken_before)
    after = measure_ceiling(device, nbytes=128 * MIB, samples=4)
    link = LinkFacts(
        subject=HOST_MEMORY,
        ceiling_bytes_per_s=max(before.bytes_per_s, after.bytes_per_s),
        ceilings=(before,),
        ceiling_after=after,
        sweep=tuple(sweep),
        preflight=preflight,
        reasons=("this machine has no PCIe GPU, so there are no counters to read",),
    )
    return _evidence(params, link, None, run)


def _evidence(params: PcieParams, link: LinkFacts, series: CounterSeries | None, run: DecodeRun) -> PcieEvidence:
    return PcieEvidence(
        params=params,
        link=link,
        series=series,
        start_s=run.start_s,
        end_s=run.end_s,
        claimed_bytes=run.claimed_bytes,
        run=run,
    )


def _look_around(system: System, uuid: str | None) -> tuple[PreflightRow, ...]:
    pinned = system.predicted_bytes_per_pass() if uuid else None  # a host-memory link pins nothing
    return tuple(look_around(uuid, device_bytes=system.budget_bytes if uuid else None, pinned_bytes=pinned))


@contextlib.contextmanager
def _vram_limit(params: PcieParams, device: torch.device) -> Iterator[None]:
    """Let PyTorch's allocator refuse what goes beyond `vram_limit_gb`, as a smaller GPU would."""
    if params.vram_limit_gb is None or device.type != "cuda":
        yield
        return
    total = torch.cuda.get_device_properties(device).total_memory
    if params.vram_limit_gb * GB > total:
        raise SystemUnavailableError(
            f"vram_limit_gb: {params.vram_limit_gb:g} GB were asked for, the GPU has {format_bytes(total)}"
        )
    torch.cuda.set_per_process_memory_fraction(params.vram_limit_gb * GB / total, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _out_of_memory(params: PcieParams, limit_gb: float, error: Exception, facts: Facts) -> Outcome:
    criterion = judge_vram_limit(limit_gb, math.inf, failed=str(error).splitlines()[0])
    summary = f"{params.system} on {params.model}: out of device memory under vram_limit_gb: {limit_gb:g}"
    return conclude_early(ANATOMY.check, criterion, summary, facts)
