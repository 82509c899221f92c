"""Evidence of a host made to measure: links of GPUs whose rates, counters and health are known to the byte.

It lets the criteria be tried without a GPU, on a host in which everything is right but for what a caller changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from djinn_checks.checks.host.driver import BOTH, D2H, H2D, NEAR, Latency, Part, list_ways
from djinn_checks.checks.host.evidence import ALONE, DIRECTIONS, TOGETHER, Copies, HostEvidence, PeerCopies, Seen, Stage
from djinn_checks.checks.host.plan import PCIE, HostPlan, LinkPlan
from djinn_checks.instruments.counters import WRAP, CounterSeries, build_series
from djinn_checks.instruments.gpus import Pair
from djinn_checks.instruments.link_health import ERRORS, HealthSample, LinkHealth
from djinn_checks.instruments.topology import PciPath, Port
from djinn_checks.params import HostParams

ALONE_RATES = {H2D: 54e9, D2H: 55e9, BOTH: 93e9}
SHARES = {H2D: 0.90, D2H: 0.96, BOTH: 0.70}
"""What each of two H200s on one host had, alone and all at once."""
_STAGE_S, _QUIET_S, _STEP_S = 0.3, 0.05, 0.002
_IDLE = (100.0, 100.3)
_RX_PER_H2D, _TX_PER_H2D, _TX_PER_D2H = 276 / 256, 24 / 256, 280 / 256
_READING_RX, _READING_TX = 14_000, 17_000


@dataclass(frozen=True, kw_only=True)
class MadeHost:
    """A host, and what is wrong with it; nothing as it stands."""

    links: int = 2
    rounds: int = 2
    rates: Mapping[int, float] = field(default_factory=dict)
    """Share of its rate that a link has, by its number; 1 of those that are not named."""
    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))
    counted_by: Mapping[int, int] = field(default_factory=dict)
    """Whose counters a link is given, by its number."""
    width: Callable[[int, float], int] = lambda number, t_s: 16
    """By number and seconds after the first stage began."""
    counts: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    """How far counters of health come over the run, by link."""
    clock_reasons: Mapping[int, int] = field(default_factory=dict)
    pinned_pages: int = 0
    silent_s: tuple[float, float] = (0.0, 0.0)
    """A time after the first stage began without readings of any link."""
    idle_bytes_per_s: Mapping[int, float] = field(default_factory=dict)
    """What others move to a link all the time."""
    switch: Port | None = None
    """Above all links."""
    unverified: tuple[int, ...] = ()


def make_evidence(host: MadeHost = MadeHost(), params: HostParams | None = None, **changed: Any) -> HostEvidence:
    """Return the evidence of a run on this host; `changed` replaces fields of it."""
    stages = _make_stages(host)
    end_s = stages[-1].end_s + 0.3
    series = [_make_series(host, number, stages, end_s) for number in range(host.links)]
    plan = HostPlan(
        subject=PCIE, links=tuple(_make_link(host, n) for n in range(host.links)), nodes=(0,), pairs=_pairs(host)
    )
    values: dict[str, Any] = {
        "params": params or HostParams.create(rounds=host.rounds),
        "subject": PCIE,
        "plan": plan,
        "seen": tuple(
            Seen(
                plan=link,
                series=series[host.counted_by.get(number, number)],
                health=_make_health(host, number, end_s),
                near_node=0,
                bound=True,
                verified=number not in host.unverified,
                latencies=tuple(Latency(direction=way, copies=900, median_us=9.0, p99_us=14.0) for way in (H2D, D2H)),
            )
            for number, link in enumerate(plan.links)
        ),
        "stages": tuple(stages),
        "idle_s": _IDLE,
        "end_s": end_s,
        "peers": tuple(
            PeerCopies(source=a, to=b, start_s=end_s, end_s=end_s + 1, nbytes=2**30, bytes_per_s=256e9)
            for a in plan.uuids for b in plan.uuids if a != b
        ),
        "peers_missing": "" if host.links > 1 else "there is one GPU",
    }  # fmt: skip
    return HostEvidence(**(values | changed))


def make_noisy_evidence(seed: int) -> HostEvidence:
    """Return the evidence of a host as a real one is: nothing is wrong, and no two links are quite alike."""
    chance = np.random.default_rng(seed)
    links = 4
    return make_evidence(
        MadeHost(
            links=links,
            rates={number: float(chance.uniform(0.97, 1.0)) for number in range(links)},
            shares={way: float(chance.uniform(0.6, 1.0)) for way in DIRECTIONS},
            counts={number: {"replays": int(chance.integers(0, 6))} for number in range(links)},
            idle_bytes_per_s={number: float(chance.uniform(0, 5e7)) for number in range(links)},
            pinned_pages=int(chance.integers(0, 10_000)),
        )
    )


def name_link(number: int) -> str:
    """Return the UUID of a made link."""
    return f"GPU-{number:08x}-0000-0000-0000-{number:012x}"


def _make_link(host: MadeHost, number: int) -> LinkPlan:
    own = Port(address=f"0000:{0x10 + number:02x}:01.0", generation=5, width=16)
    return LinkPlan(
        uuid=name_link(number),
        name="NVIDIA made to measure",
        subject=PCIE,
        source="",
        opener="",
        max_generation=5,
        max_width=16,
        numa_node=0,
        nvlinks=18,
        path=PciPath(
            address=f"0000:{0x18 + number:02x}:00.0",
            ports=(own, host.switch) if host.switch else (own,),
            iommu_group=number,
            acs_redirects=None,
        ),
    )


def _pairs(host: MadeHost) -> tuple[Pair, ...]:
    return tuple(
        Pair(one=name_link(a), other=name_link(b), meets_in="one NUMA node", can_peer=True, over_nvlink=True)
        for a in range(host.links)
        for b in range(a + 1, host.links)
    )


def _make_stages(host: MadeHost) -> list[Stage]:
    at_s, stages = _IDLE[1], []
    every = list(range(host.links))
    for round_ in range(host.rounds):
        for direction in DIRECTIONS:
            for kind, numbers in (*((ALONE, [number]) for number in every), (TOGETHER, every)):
                share = host.shares[direction] if kind == TOGETHER and host.links > 1 else 1.0
                start = at_s + _QUIET_S
                stages.append(
                    Stage(
                        kind=kind,
                        direction=direction,
                        memory=NEAR,
                        round=round_,
                        start_s=at_s,
                        end_s=start + _STAGE_S + _QUIET_S,
                        copies={name_link(n): _copy(host, n, direction, start, share) for n in numbers},
                    )
                )
                at_s = stages[-1].end_s
    return stages


def _copy(host: MadeHost, number: int, direction: str, start_s: float, share: float) -> Copies:
    rate = ALONE_RATES[direction] * host.rates.get(number, 1.0) * share
    ways = list_ways(direction)
    parts = tuple(
        Part(direction=way, nbytes=int(rate / len(ways) * _STAGE_S), start_s=start_s, seconds=_STAGE_S) for way in ways
    )
    return Copies(parts=parts, began_s=start_s, ended_s=start_s + _STAGE_S)


def _make_series(host: MadeHost, number: int, stages: list[Stage], end_s: float) -> CounterSeries:
    """Return readings every two milliseconds over all stages, a while before and a while behind."""
    times = np.arange(_IDLE[0] - 0.2, end_s + 0.2, _STEP_S)
    payload = {way: np.zeros(len(times)) for way in (H2D, D2H)}
    payload[H2D] += host.idle_bytes_per_s.get(number, 0.0) * (times - times[0])
    for stage in stages:
        copies = stage.copies.get(name_link(number))
        for part in copies.parts if copies else ():
            done = np.clip((times - part.start_s) / part.seconds, 0.0, 1.0)
            payload[part.direction] += done * part.nbytes
    readings = np.arange(len(times))
    rx = _RX_PER_H2D * payload[H2D] + _READING_RX * readings
    tx = _TX_PER_H2D * payload[H2D] + _TX_PER_D2H * payload[D2H] + _READING_TX * readings
    start, end = (_IDLE[1] + at for at in host.silent_s)
    kept = ~((times > start) & (times < end))
    raw = [np.asarray(sums[kept], dtype=np.int64) % WRAP for sums in (rx, tx)]
    return build_series(times[kept], times[kept], raw[0], raw[1], source="made to measure")


def _make_health(host: MadeHost, number: int, end_s: float) -> LinkHealth:
    times = np.arange(_IDLE[0] - 0.2, end_s + 0.3, 0.1).tolist()
    grown = host.counts.get(number, {})
    return LinkHealth(
        tuple(
            HealthSample(
                t_s=t_s,
                generation=5,
                width=host.width(number, t_s - _IDLE[1]),
                clock_reasons=host.clock_reasons.get(number, 0),
                pins=int(host.pinned_pages * index / (len(times) - 1)),
                counts={name: 799 + int(grown.get(name, 0) * index / (len(times) - 1)) for name in ERRORS},
            )
            for index, t_s in enumerate(times)
        )
    )


def lose(evidence: HostEvidence, number: int, why: str) -> HostEvidence:
    """Return the evidence as if the process of a link had been lost in mid-run."""
    uuid = name_link(number)
    kept = [
        replace(stage, copies={name: copies for name, copies in stage.copies.items() if name != uuid})
        for stage in evidence.stages
        if set(stage.copies) != {uuid}
    ]
    seen = tuple(
        replace(link, lost=why, verified=None, latencies=()) if link.uuid == uuid else link for link in evidence.seen
    )
    return replace(evidence, stages=tuple(kept), seen=seen)
