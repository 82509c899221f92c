"""The rows of the host check: its instruments, each link, and all of them at once."""

from __future__ import annotations

from dataclasses import replace

from djinn_checks.checks.host.evidence import HostEvidence
from djinn_checks.checks.host.host_criteria import judge_host
from djinn_checks.checks.host.instrument_criteria import GPUS_FREE, judge_instruments
from djinn_checks.checks.host.link_criteria import judge_links
from djinn_checks.checks.host.plan import HOST_MEMORY
from djinn_checks.outcome import Criterion

__all__ = ["GPUS_FREE", "judge_evidence"]


def judge_evidence(evidence: HostEvidence) -> tuple[Criterion, ...]:
    """Return all criteria of the host check, instruments first."""
    rows = (*judge_instruments(evidence), *judge_links(evidence), *judge_host(evidence))
    return tuple(map(_own_up, rows)) if evidence.subject == HOST_MEMORY else rows


def _own_up(row: Criterion) -> Criterion:
    """What NVML tells of a GPU, links within host memory make up, to prove the check's machinery."""
    if "NVML" not in row.evidence:
        return row
    return replace(row, evidence=f"made up by the links that stand in for those of GPUs, in place of {row.evidence}")
