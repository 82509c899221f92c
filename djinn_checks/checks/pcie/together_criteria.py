"""The rows of the PCIe check on several GPUs: of each row the worst of all GPUs, and what is about all of them.

A row of all is the row of one GPU, the one whose status is worst, with its numbers and its name: a claim holds for all
only if it does for each. What each GPU came to by itself stands in the measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from djinn_checks.checks.fleet_criteria import judge_whole_host, tell_lost
from djinn_checks.checks.pcie.criteria import judge_evidence
from djinn_checks.checks.pcie.evidence import HOST_MEMORY
from djinn_checks.checks.pcie.together import TogetherEvidence
from djinn_checks.outcome import Criterion, Row, Status
from djinn_checks.units import GB, format_count

_WORST_FIRST = (Status.FAIL, Status.INCONCLUSIVE, Status.PASS, Status.SKIP)
_LEAST_OVERLAP = 0.9


def judge_each(evidence: TogetherEvidence) -> dict[str, tuple[Criterion, ...]]:
    """Return the rows of each GPU by itself, by its UUID."""
    return {gpu.uuid: judge_evidence(gpu.evidence) for gpu in evidence.gpus}


def judge_all(evidence: TogetherEvidence, each: Mapping[str, Sequence[Criterion]]) -> tuple[Criterion, ...]:
    """Return the rows of all GPUs together, those about the run first."""
    names = list(dict.fromkeys(row.name for rows in each.values() for row in rows))
    return (
        _whole_host(evidence),
        _workers_finished(evidence),
        _entered_together(evidence),
        *(_pick_worst(name, each) for name in names),
        _share_of_alone(evidence),
    )


def _pick_worst(name: str, each: Mapping[str, Sequence[Criterion]]) -> Criterion:
    found = [(uuid, row) for uuid, rows in each.items() for row in rows if row.name == name]
    uuid, row = min(found, key=lambda pair: _WORST_FIRST.index(pair[1].status))
    if len(each) == 1 or row.status is Status.SKIP:
        return row
    alike = sum(other.status is row.status for _, other in found)
    return replace(
        row,
        evidence=f"{uuid}, one of {alike} of {len(each)} that are {row.status}: {row.evidence}",
        reason=f"{uuid}: {row.reason}" if row.reason else "",
    )


def _whole_host(evidence: TogetherEvidence) -> Criterion:
    streams = evidence.streams
    driven = len(streams.names)
    stand_ins = f"there is no PCIe GPU: {format_count(driven, 'system')} over host memory ran"
    none = streams.subject == HOST_MEMORY
    return judge_whole_host(driven, streams.left_out, evidence.params.gpus, stand_ins if none else "")


def _workers_finished(evidence: TogetherEvidence) -> Criterion:
    row = Row("workers_finished", "The process of each GPU came to its end", unit="process(es) lost")
    return row.judge(
        len(evidence.streams.names) - len(evidence.gpus),
        "==",
        0,
        evidence="one process for each; one that ends or does not answer in time is left behind",
        failed=tell_lost(evidence.lost),
        instrument=True,
    )


def _entered_together(evidence: TogetherEvidence) -> Criterion:
    row = Row("entered_together", "All decoded at the same time", unit="share of the run")
    return row.judge(
        evidence.overlap,
        ">=",
        _LEAST_OVERLAP,
        evidence="from the last that began to the first that ended, over the longest",
        failed="a process came late; are the processors busy?",
        instrument=True,
    )


def _share_of_alone(evidence: TogetherEvidence) -> Criterion:
    """What a host shares no rule can foretell, so this is told and decides nothing."""
    row = Row("share_of_alone", "What each link has of its rate alone", unit="share", required=False)
    said = []
    for gpu in evidence.gpus:
        rate, alone = gpu.rate, gpu.rate_alone(evidence.alone_passes.get(gpu.uuid, 0))
        if rate is not None and alone:
            said.append(f"{gpu.uuid} {rate / GB:.2f} of {alone / GB:.2f} GB/s, {rate / alone:.3f}")
    return row.skip(f"no share is expected; it was {'; '.join(said) or 'not measured'}")
