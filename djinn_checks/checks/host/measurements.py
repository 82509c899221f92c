"""The host check's evidence as plain data, for the outcome and the figures made from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from djinn_checks.checks.host.accounts import Account, list_accounts
from djinn_checks.checks.host.evidence import DIRECTIONS, HostEvidence, Seen, Stage
from djinn_checks.checks.host.figures import list_figures
from djinn_checks.checks.host.link_criteria import list_looks
from djinn_checks.checks.host.plan import HOST_MEMORY, PCIE, REPLAY
from djinn_checks.instruments.link_health import ERRORS
from djinn_checks.measurements.host import AccountRow, HostMeasurements, LinkRow, PairRow, StageRow, Traces
from djinn_checks.outcome import Criterion, Status
from djinn_checks.units import MB, format_count

LABELS = {
    PCIE: "PCIe links of this host's GPUs",
    HOST_MEMORY: "links within host memory: this machine has no PCIe GPU",
    REPLAY: "replay of a recorded host",
}
_WINDOWS = 600
"""How many windows a trace has at the most."""
_SHORTEST_WINDOW_S = 0.02


def summarize(evidence: HostEvidence, criteria: Sequence[Criterion], status: Status) -> str:
    """Return one sentence with the figures that decide."""
    count = len(evidence.seen)
    what = format_count(count, "replayed link" if evidence.subject == REPLAY else "link")
    if evidence.subject == HOST_MEMORY:
        what += " within host memory"
    if status is not Status.PASS:
        decisive = next((row for row in criteria if row.required and row.status is status), None)
        return f"{what}: {decisive.name}: {decisive.reason}" if decisive else what
    figures = list_figures(evidence)
    said = [
        f"{words} {figures[f'alone_{way}']:.1f} GB/s alone, {figures[f'together_{way}']:.0%} of it all at once"
        for way, words in (("h2d", "to the device"), ("d2h", "back"), ("both", "both ways"))
        if f"alone_{way}" in figures and f"together_{way}" in figures
    ]
    return f"{what}: at the least {'; '.join(said)}"


def gather_measurements(evidence: HostEvidence) -> HostMeasurements:
    """Return what the report's tables and figures are made of, as plain data."""
    return {
        "link": {"subject": evidence.subject, "label": LABELS[evidence.subject]},
        "links": [_link_row(evidence, link) for link in evidence.seen],
        "left_out": dict(evidence.plan.left_out),
        "nodes": list(evidence.plan.nodes),
        "stages": _stage_rows(evidence),
        "accounts": _account_rows(evidence),
        "pairs": _pair_rows(evidence),
        "peers_missing": evidence.peers_missing,
        "figures": list_figures(evidence),
        "expected": dict(evidence.expected.figures),
        "expected_by": evidence.expected.source if evidence.expected.figures else "",
        "traces": _traces(evidence),
    }


def _link_row(evidence: HostEvidence, link: Seen) -> LinkRow:
    plan, uuid = link.plan, link.uuid
    span = evidence.idle_s[0], evidence.end_s
    looks = [look.trained for look in list_looks(evidence, link)]
    together = {way: stage.copies[uuid].bytes_per_s for way, stage in evidence.together.items() if uuid in stage.copies}
    return {
        "uuid": uuid,
        "name": plan.name,
        "pci": plan.path.address if plan.path else None,
        "ports": [f"{port.address} gen {port.generation or '?'} x{port.width or '?'}" for port in plan.path.ports]
        if plan.path
        else [],
        "numa_node": plan.numa_node,
        "near_node": link.near_node,
        "far_node": link.far_node,
        "bound": link.bound,
        "iommu_group": plan.path.iommu_group if plan.path else None,
        "acs_redirects": plan.path.acs_redirects if plan.path else None,
        "nvlinks": plan.nvlinks,
        "max_generation": plan.max_generation,
        "max_width": plan.max_width,
        "at_work": list(dict.fromkeys(looks)),
        "counters": link.series.source if link.series else None,
        "verified": link.verified,
        "lost": link.lost,
        "alone": dict(evidence.alone[uuid]),
        "together": together,
        "share_of_alone": {way: evidence.share_of_alone(uuid, way) for way in DIRECTIONS},
        "alone_far": dict(evidence.alone_far.get(uuid, {})),
        "rounds": {way: evidence.list_rates(uuid, way) for way in DIRECTIONS},
        "latencies": [
            {"direction": seen.direction, "copies": seen.copies, "median_us": seen.median_us, "p99_us": seen.p99_us}
            for seen in link.latencies
        ],
        "differences": {name: link.health.difference(name, *span) if link.health else None for name in ERRORS},
    }


def _stage_rows(evidence: HostEvidence) -> list[StageRow]:
    start = evidence.idle_s[1]
    return [
        {
            "kind": stage.kind,
            "direction": stage.direction,
            "memory": stage.memory,
            "round": stage.round,
            "start_s": stage.start_s - start,
            "end_s": stage.end_s - start,
            "bytes_per_s": stage.bytes_per_s,
            "overlap": stage.overlap,
            "by_link": {uuid: copies.bytes_per_s for uuid, copies in stage.copies.items()},
        }
        for stage in evidence.stages
    ]


def _account_rows(evidence: HostEvidence) -> list[AccountRow]:
    """The worst stage of each link; one that is not known before those that are."""
    by_link: dict[str, list[Account]] = {}
    for account in list_accounts(evidence):
        by_link.setdefault(account.uuid, []).append(account)
    worst = [
        max(accounts, key=lambda account: math.inf if account.error is None else account.error)
        for accounts in by_link.values()
    ]
    return [
        {
            "uuid": account.uuid,
            "stage": _name_stage(account.stage),
            "copied_h2d": account.copied["h2d"],
            "copied_d2h": account.copied["d2h"],
            "counted_h2d": account.counted["h2d"] if account.counted else None,
            "counted_d2h": account.counted["d2h"] if account.counted else None,
            "error": account.error,
        }
        for account in worst
    ]


def _name_stage(stage: Stage) -> str:
    return f"{stage.kind} {stage.direction} {stage.memory}, round {stage.round + 1}"


def _pair_rows(evidence: HostEvidence) -> list[PairRow]:
    rates = {(copies.source, copies.to): copies.bytes_per_s for copies in evidence.peers}
    return [
        {
            "one": pair.one,
            "other": pair.other,
            "meets_in": pair.meets_in,
            "can_peer": pair.can_peer,
            "over_nvlink": pair.over_nvlink,
            "bytes_per_s": rates.get((pair.one, pair.other)),
            "back_bytes_per_s": rates.get((pair.other, pair.one)),
        }
        for pair in evidence.plan.pairs
    ]


def _traces(evidence: HostEvidence) -> Traces:
    start, end = evidence.idle_s[1], evidence.end_s
    window = max(_SHORTEST_WINDOW_S, (end - start) / _WINDOWS)
    found: dict[str, dict[str, list[float | None]]] = {"rx": {}, "tx": {}}
    for link in evidence.seen:
        series = evidence.fitted[link.uuid]
        for way in ("rx", "tx") if series is not None and end > start else ():
            _, wire = series.windows(start, end, window, way) if series is not None else ((), ())
            found[way][link.uuid] = [None if math.isnan(count) else round(count / window / MB, 1) for count in wire]
    return {"window_s": window, "rx_mb_per_s": found["rx"], "tx_mb_per_s": found["tx"]}
