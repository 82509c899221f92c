"""The figures of a host that another of its type is held against, by their names."""

from __future__ import annotations

from djinn_checks.checks.host.evidence import DIRECTIONS, HostEvidence
from djinn_checks.units import GB

GROUPS = {
    "alone": "GB/s of the slowest link alone",
    "together": "share of its rate alone that the worst link has while all are driven",
    "sum": "GB/s of all links together",
    "far": "share of the rate with near memory that the worst link has with far memory",
    "peer": "GB/s of the slowest pair of GPUs",
    "latency": "microseconds of a small copy, on the slowest link",
}
"""Each is followed by _h2d, _d2h or _both; `peer` by nothing."""
AT_MOST = "latency"
"""The one that is better where it is smaller."""
NAMES = tuple(
    name
    for group in GROUPS
    for name in (["peer"] if group == "peer" else [f"{group}_{way}" for way in DIRECTIONS])
    if name not in ("latency_both", "far_both")
)


def list_figures(evidence: HostEvidence) -> dict[str, float]:
    """Return those that are known."""
    found: dict[str, float | None] = {}
    for way in DIRECTIONS:
        alone = [rates.get(way) for rates in evidence.alone.values()]
        found[f"alone_{way}"] = _in_gb(_least(alone))
        found[f"together_{way}"] = _least([evidence.share_of_alone(link.uuid, way) for link in evidence.seen])
        stage = evidence.together.get(way)
        found[f"sum_{way}"] = _in_gb(stage.bytes_per_s) if stage else None
        far = [
            rates[way] / evidence.alone[uuid][way]
            for uuid, rates in evidence.alone_far.items()
            if way in rates and way in evidence.alone[uuid]
        ]
        found[f"far_{way}"] = _least(far)
        latencies = [seen.median_us for link in evidence.seen for seen in link.latencies if seen.direction == way]
        found[f"latency_{way}"] = max(latencies, default=None)
    found["peer"] = _in_gb(min((copies.bytes_per_s for copies in evidence.peers), default=None))
    return {name: value for name in NAMES if (value := found.get(name)) is not None}


def _in_gb(value: float | None) -> float | None:
    return None if value is None else value / GB


def _least(values: list[float | None] | list[float]) -> float | None:
    known = [value for value in values if value is not None]
    return min(known) if known and len(known) == len(values) else None
