"""What kind of stream it was, as plain data: who read, how full wire and weights were, and how the link fared."""

from __future__ import annotations

from djinn_checks.checks.pcie.evidence import PcieEvidence
from djinn_checks.instruments.link_health import ERRORS, most_replays
from djinn_checks.measurements.pcie import Figures, FloorFacts, HealthFacts, ReaderFacts


def describe_reader(evidence: PcieEvidence) -> ReaderFacts | None:
    """Return who read host memory; None without counters."""
    counter, reader, bounds = evidence.counter, evidence.reader, evidence.bounds
    if counter is None or reader is None:
        return None
    used = find_used_bytes(evidence)
    counted = evidence.counted_bytes
    return {
        "says": reader.says,
        "request_bytes": reader.request_bytes,
        "sent_of_received": reader.sent_of_received,
        "by_law": counter.by_law,
        "why_not": counter.reason,
        "least_bytes": bounds.least if bounds else None,
        "most_bytes": bounds.most if bounds else None,
        "used_bytes": used,
        "wasted_bytes": None if used is None or counted is None else max(0.0, counted - used),
    }


def find_used_bytes(evidence: PcieEvidence) -> float | None:
    """Return what the passes could use of what was read; None if it is not known how many weights they have.

    That is no more than all weights in each pass, and no more than the system claims to have used, or plans to where
    kernels read in place.
    """
    per_pass, reader = evidence.used_bytes or evidence.weight_bytes, evidence.reader
    if per_pass is None or not evidence.passes or evidence.counted_bytes is None:
        return None
    planned = evidence.run.predicted_bytes if evidence.run else None
    if planned is not None and reader is not None and reader.in_place:
        per_pass = min(per_pass, planned)
    claimed = evidence.counted_bytes if evidence.claimed_bytes is None else evidence.claimed_bytes
    return float(min(per_pass * evidence.passes, claimed, evidence.counted_bytes))


def describe_figures(evidence: PcieEvidence) -> Figures:
    """Return the four figures that are kept apart."""
    claimed, counted = evidence.claimed_bytes, evidence.counted_bytes
    least, per_pass = evidence.least_per_pass, evidence.counted_per_pass
    return {
        "wire_of_ceiling": evidence.wire_of_ceiling,
        "claimed_of_counted": claimed / counted if claimed is not None and counted else None,
        "weights_of_ceiling": evidence.weight_rate_of_ceiling,
        "counted_of_least": per_pass / least if per_pass is not None and least else None,
    }


def describe_floor(evidence: PcieEvidence) -> FloorFacts | None:
    """Return the fewest bytes that the weights can be put in; None if that was not measured."""
    floor = evidence.floor
    if floor is None:
        return None
    return {
        "weight_bytes": floor.weight_bytes,
        "least_bytes": floor.least_bytes,
        "error_bytes": floor.error_bytes,
        "share_of_field": dict(floor.share_of_field),
    }


def describe_health(evidence: PcieEvidence) -> HealthFacts | None:
    """Return the link's health during the run, second by second; None where nothing tells it."""
    health = evidence.link.health
    samples = health.around(evidence.start_s, evidence.end_s) if health else ()
    if health is None or not samples:
        return None
    return {
        "seconds": [
            {
                "t_s": sample.t_s - evidence.start_s,
                "generation": sample.generation,
                "width": sample.width,
                "slowed_by": list(sample.slowed_by),
            }
            for sample in samples
        ],
        "differences": {name: health.difference(name, evidence.start_s, evidence.end_s) for name in ERRORS},
        "most_replays": most_replays(samples[0].generation, samples[0].width, evidence.duration_s),
    }
