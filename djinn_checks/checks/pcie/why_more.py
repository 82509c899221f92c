"""Why more may have come over a link than is certain, in words."""

from __future__ import annotations

from djinn_checks.checks.pcie.evidence import PcieEvidence

LOST = "evidence was lost during the run"


def say_why_more(evidence: PcieEvidence) -> str:
    """Return why the payload has bounds."""
    if evidence.counted_bytes is None:
        return LOST
    if evidence.counter is not None and not evidence.counter.by_law:
        return "it was not copies that read, and only their ratio is known"
    return "more was sent than copies ask with, so either requests were small or data went to the host meanwhile"
