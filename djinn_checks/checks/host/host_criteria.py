"""The rows of the host check about all links at once, and about figures that this type of host is expected to reach.

What a host shares, its memory say, no rule can foretell: with two H200s each link had 0.90 of its own to the device and
0.70 both ways. So the share of alone is decided by what is expected of the type of host, or by a switch that the kernel
shows above several links; without either a row says what it was and decides nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from djinn_checks.checks.host.driver import D2H, H2D
from djinn_checks.checks.host.evidence import DIRECTIONS, HostEvidence
from djinn_checks.checks.host.figures import AT_MOST, GROUPS, list_figures
from djinn_checks.checks.host.link_criteria import payload_limit
from djinn_checks.instruments.topology import Port, find_shared_port
from djinn_checks.outcome import Criterion, Row, format_quantity

_TOGETHER_LOSES = 0.95
"""What all together carry, of what the fastest alone does."""
_TITLES = {
    "alone": "Each link alone is as fast as expected",
    "together": "While all are driven each link keeps as much of its rate alone as expected",
    "sum": "All links together carry as much as expected",
    "far": "With the far node's memory each link is as fast as expected",
    "peer": "Copies between GPUs are as fast as expected",
    "latency": "Small copies take no longer than expected",
}
_ROWS = {group: f"{group}_as_expected" for group in GROUPS}


def judge_host(evidence: HostEvidence) -> tuple[Criterion, ...]:
    """Return the rows about all links at once, and those about what is expected."""
    figures = list_figures(evidence)
    return (
        _together_at_least_one(evidence),
        _sharing_explained(evidence),
        *(_as_expected(evidence, group, figures) for group in GROUPS),
    )


def _together_at_least_one(evidence: HostEvidence) -> Criterion:
    row = Row(
        "together_at_least_one", "All links together carry no less than the fastest of them alone", unit="share of it"
    )
    shares = {
        way: stage.bytes_per_s / max(rates)
        for way, stage in evidence.together.items()
        if (rates := [found[way] for found in evidence.alone.values() if way in found])
    }
    worst = min(shares, key=lambda way: shares[way], default="")
    return row.judge(
        shares.get(worst),
        ">=",
        _TOGETHER_LOSES,
        evidence=f"{', '.join(DIRECTIONS)}: the fastest round of all at once",
        missing="no stage was entered by all",
        failed=f"{worst}: the links are in each other's way",
    )


def list_shared_ports(evidence: HostEvidence) -> list[tuple[Port, tuple[str, ...]]]:
    """Return each port that several links hang below, by the kernel, with their UUIDs; the lowest for each group."""
    paths = {link.uuid: link.plan.path for link in evidence.seen if link.plan.path is not None and link.plan.path.ports}
    below: dict[str, set[str]] = defaultdict(set)
    for uuid, path in paths.items():
        for port in path.ports:
            below[port.address].add(uuid)
    groups = {tuple(sorted(uuids)) for uuids in below.values() if len(uuids) > 1}
    found = []
    for group in sorted(groups, key=len):
        shared = find_shared_port([path for uuid in group if (path := paths[uuid]) is not None])
        if shared is not None:
            found.append((shared, group))
    return found


def _sharing_explained(evidence: HostEvidence) -> Criterion:
    row = Row("sharing_explained", "Links below one switch get what its link to the host carries", unit="share of it")
    shares: dict[tuple[str, str], float] = {}
    for port, group in list_shared_ports(evidence):
        limit = payload_limit(port.generation, port.width)
        for way, stage in evidence.together.items() if limit is not None else ():
            if way not in (H2D, D2H) or not set(group) <= stage.copies.keys() or limit is None:
                continue
            alone = sum(evidence.alone[uuid].get(way, 0.0) for uuid in group)
            carried = sum(stage.copies[uuid].bytes_per_s for uuid in group)
            shares[port.address, way] = carried / min(limit, alone)
    worst = min(shares, key=lambda key: shares[key], default=None)
    if worst is None:
        return row.skip(f"the kernel shows no switch above several links; {_say_shares(evidence)}")
    return row.judge(
        shares[worst],
        ">=",
        evidence.params.of_width,
        evidence=f"all at once, over what the port carries by its lanes or the links do alone; {_say_shares(evidence)}",
        failed=f"below port {worst[0]}, {worst[1]}",
    )


def _say_shares(evidence: HostEvidence) -> str:
    """Return what links had of their rates alone, and what they meet in."""
    said = []
    for way in DIRECTIONS:
        shares = [evidence.share_of_alone(link.uuid, way) for link in evidence.seen]
        known = [share for share in shares if share is not None]
        if known:
            said.append(f"{way} {min(known):.2f} to {max(known):.2f}")
    meets = sorted({pair.meets_in for pair in evidence.plan.pairs if pair.meets_in})
    where = f"; they meet in {', '.join(meets)}" if meets else ""
    return f"all at once each has of its rate alone: {', '.join(said) or 'unknown'}{where}"


def _as_expected(evidence: HostEvidence, group: str, figures: Mapping[str, float]) -> Criterion:
    row = Row(_ROWS[group], _TITLES[group], unit="share of what is expected")
    own = [name for name in figures if name.partition("_")[0] == group]
    expected = {
        name: evidence.expected.figures[name] for name in evidence.expected.figures if name.split("_")[0] == group
    }
    said = ", ".join(f"{name} {_format(group, figures[name])}" for name in own)
    if not expected:
        absent = _why_absent(evidence, group) if not own else f"no figure is expected of this host; it has {said}"
        return row.skip(absent)
    lacking = sorted(expected.keys() - figures.keys())
    shares = {
        name: expected[name] / figures[name] if group == AT_MOST else figures[name] / expected[name]
        for name in expected
        if name in figures
    }
    worst = min(shares, key=lambda name: shares[name], default="")
    return row.judge(
        None if lacking else shares.get(worst),
        ">=",
        1 - evidence.params.expect_tolerance,
        evidence=f"{said}; expected by {evidence.expected.source}",
        missing=f"not measured: {', '.join(lacking)}",
        failed=f"{worst} is {_format(group, figures.get(worst, 0.0))}, expected "
        f"{_format(group, expected.get(worst, 0.0))}",
    )


def _why_absent(evidence: HostEvidence, group: str) -> str:
    if group == "far":
        return f"there is {len(evidence.plan.nodes)} NUMA node with memory, or it is not known which is near"
    if group == "peer":
        return evidence.peers_missing or "no copies between GPUs were made"
    return "it was not measured"


def _format(group: str, value: float) -> str:
    units = {"alone": "GB/s", "sum": "GB/s", "peer": "GB/s", "latency": "us"}
    return format_quantity(value, units[group]) if group in units else f"{value:.3f}"
