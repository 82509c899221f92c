"""The PCIe check on several GPUs at once, from its parameters to its outcome."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from djinn_checks.checks.conclude import Facts, conclude_early
from djinn_checks.checks.pcie.measurements import gather_measurements, summarize
from djinn_checks.checks.pcie.together import GpuStream, TogetherEvidence, find_streams, stream_together
from djinn_checks.checks.pcie.together_criteria import judge_all, judge_each
from djinn_checks.checks.settle import Progress, read_environment
from djinn_checks.devices import choose_device
from djinn_checks.instruments.traces import save_trace
from djinn_checks.measurements.pcie import GpuRow, PcieMeasurements, TogetherFacts
from djinn_checks.outcome import Criterion, Outcome, Row, Status, settle
from djinn_checks.params import PcieParams
from djinn_checks.units import GB

_CHECK = "pcie"


def check_together(params: PcieParams, facts: Facts, progress: Progress, save_to: str | os.PathLike[str]) -> Outcome:
    """Return the outcome of all GPUs that `gpus` asks for.

    Raises:
        ParamsError: a GPU is named that is not there or cannot be driven.
        SystemUnavailableError: there is no GPU, and one was asked for.
        InstrumentError: no process came to its end.
    """
    streams = find_streams(params)
    if streams.in_use:
        said = "; ".join(f"{uuid}: {who}" for uuid, who in streams.in_use.items())
        row = Row("gpus_free", "Nobody else uses a GPU when the run begins", unit="GPU(s)")
        judged = row.judge(
            len(streams.in_use), "==", 0, evidence="NVML, before anything ran", failed=said, instrument=True
        )
        return conclude_early(_CHECK, judged, f"nothing was run, as somebody else uses a GPU: {said}", facts)
    evidence = stream_together(params, streams, progress)
    facts["environment"] = read_environment(choose_device(params.device), params.system)
    if save_to:
        _save_traces(evidence, Path(save_to))
    return conclude_all(evidence, facts)


def conclude_all(evidence: TogetherEvidence, facts: Facts) -> Outcome:
    """Judge what was seen of all GPUs, and return the outcome."""
    each = judge_each(evidence)
    criteria = judge_all(evidence, each)
    status = settle(criteria)
    return Outcome(
        check=_CHECK,
        status=status,
        summary=_summarize(evidence, each, criteria, status),
        criteria=criteria,
        measurements=_gather(evidence, each),
        **facts,
    )


def _save_traces(evidence: TogetherEvidence, path: Path) -> None:
    """Keep the readings of each GPU beside the outcome, as `<name>.samples.<number>.csv.gz`."""
    for number, gpu in enumerate(evidence.gpus):
        if gpu.evidence.series is not None:
            save_trace(gpu.evidence.series, path.with_name(f"{path.stem}.samples.{number}.csv.gz"))


def _summarize(
    evidence: TogetherEvidence, each: Mapping[str, Sequence[Criterion]], criteria: Sequence[Criterion], status: Status
) -> str:
    params = evidence.params
    what = f"{params.system} on {params.model} ({params.dtype}), {len(evidence.gpus)} at once"
    if status is not Status.PASS:
        decisive = next((row for row in criteria if row.required and row.status is status), None)
        return f"{what}: {decisive.name}: {decisive.reason}" if decisive else what
    rates = [rate for gpu in evidence.gpus if (rate := gpu.rate) is not None]
    shares = [share for gpu in evidence.gpus if (share := _share(evidence, gpu)) is not None]
    text = f"{what}: {', '.join(f'{rate / GB:.1f}' for rate in rates)} GB/s received, {sum(rates) / GB:.1f} in all"
    return f"{text}; {min(shares):.1%} of alone at the least" if shares else text


def _share(evidence: TogetherEvidence, gpu: GpuStream) -> float | None:
    rate, alone = gpu.rate, gpu.rate_alone(evidence.alone_passes.get(gpu.uuid, 0))
    return None if rate is None or not alone else rate / alone


def _gather(evidence: TogetherEvidence, each: Mapping[str, Sequence[Criterion]]) -> PcieMeasurements:
    rates = [gpu.rate for gpu in evidence.gpus]
    known = [rate for rate in rates if rate is not None]
    together: TogetherFacts = {
        "start_s": min(gpu.evidence.start_s for gpu in evidence.gpus),
        "overlap": evidence.overlap,
        "sum_bytes_per_s": sum(known) if len(known) == len(rates) else None,
        "lost": dict(evidence.lost),
        "left_out": dict(evidence.streams.left_out),
    }
    first = gather_measurements(evidence.gpus[0].evidence)
    return {
        "link": first["link"],
        "together": together,
        "gpus": [_gpu_row(evidence, gpu, each[gpu.uuid]) for gpu in evidence.gpus],
    }


def _gpu_row(evidence: TogetherEvidence, gpu: GpuStream, criteria: Sequence[Criterion]) -> GpuRow:
    status = settle(criteria)
    required = [row for row in criteria if row.required and row.status is not Status.SKIP]
    return {
        "uuid": gpu.uuid,
        "status": status.value,
        "summary": summarize(gpu.evidence, criteria, status),
        "statuses": {row.name: row.status.value for row in required},
        "observed": {row.name: row.observed for row in required},
        "bytes_per_s": gpu.rate,
        "alone_bytes_per_s": gpu.rate_alone(evidence.alone_passes.get(gpu.uuid, 0)),
        "share_of_alone": _share(evidence, gpu),
        "ceiling_alone_bytes_per_s": gpu.alone_ceiling.bytes_per_s,
        "ceiling_together_bytes_per_s": gpu.evidence.link.ceiling_bytes_per_s,
        "measurements": dict(gather_measurements(gpu.evidence)),
    }
