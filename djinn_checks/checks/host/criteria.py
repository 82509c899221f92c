"""The rows of the host check: its instruments, each link, and all of them at once."""

from __future__ import annotations

from djinn_checks.checks.host.evidence import HostEvidence
from djinn_checks.checks.host.host_criteria import judge_host
from djinn_checks.checks.host.instrument_criteria import GPUS_FREE, judge_instruments
from djinn_checks.checks.host.link_criteria import judge_links
from djinn_checks.outcome import Criterion

__all__ = ["GPUS_FREE", "judge_evidence"]


def judge_evidence(evidence: HostEvidence) -> tuple[Criterion, ...]:
    """Return all criteria of the host check, instruments first."""
    return (*judge_instruments(evidence), *judge_links(evidence), *judge_host(evidence))
