"""What the host check writes of its run, and what is read of it. Rates in bytes/s, instants in seconds after the first
stage began.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, cast


class Subject(TypedDict):
    """What was driven."""

    subject: str
    """"pcie", "host memory" or "replay"."""
    label: str


class LatencyRow(TypedDict):
    """Single small copies, one way."""

    direction: str
    copies: int
    median_us: float
    p99_us: float


class LinkRow(TypedDict):
    """One link; None is unknown."""

    uuid: str
    name: str
    pci: str | None
    ports: list[str]
    """Above it, from its own up to the root, each as "address gen x width"."""
    numa_node: int | None
    near_node: int | None
    """Where its host memory was found to lie; `far_node` of the other."""
    far_node: int | None
    bound: bool
    """Whether that memory was bound there."""
    iommu_group: int | None
    acs_redirects: bool | None
    nvlinks: int | None
    max_generation: int | None
    max_width: int | None
    at_work: list[str]
    """Trainings that were seen while it was at work."""
    counters: str | None
    verified: bool | None
    lost: str
    alone: dict[str, float]
    """By direction: h2d, d2h, both (the sum)."""
    together: dict[str, float]
    share_of_alone: dict[str, float | None]
    alone_far: dict[str, float]
    rounds: dict[str, list[float]]
    """Alone, by direction, round by round."""
    latencies: list[LatencyRow]
    differences: dict[str, int | None]
    """How far each counter of the link's health came."""


class StageRow(TypedDict):
    """One time that one or all were driven."""

    kind: str
    direction: str
    memory: str
    round: int
    start_s: float
    end_s: float
    bytes_per_s: float
    """Of all."""
    overlap: float
    by_link: dict[str, float]


class AccountRow(TypedDict):
    """A link's counters against its copies, the worst stage of each."""

    uuid: str
    stage: str
    copied_h2d: int
    copied_d2h: int
    counted_h2d: float | None
    counted_d2h: float | None
    error: float | None


class PairRow(TypedDict):
    """Two GPUs."""

    one: str
    other: str
    meets_in: str | None
    can_peer: bool | None
    over_nvlink: bool | None
    bytes_per_s: float | None
    """From one to the other; `back_bytes_per_s` the other way."""
    back_bytes_per_s: float | None


class Traces(TypedDict):
    """What each link carried on the wire, in windows of `window_s`, MB/s; None is lost evidence."""

    window_s: float
    rx_mb_per_s: dict[str, list[float | None]]
    tx_mb_per_s: dict[str, list[float | None]]


class HostMeasurements(TypedDict, total=False):
    """All of it. An outcome that stopped early has none of it."""

    link: Subject
    links: list[LinkRow]
    left_out: dict[str, str]
    nodes: list[int]
    stages: list[StageRow]
    accounts: list[AccountRow]
    pairs: list[PairRow]
    peers_missing: str
    figures: dict[str, float]
    expected: dict[str, float]
    expected_by: str
    traces: Traces


def read(measurements: Mapping[str, Any]) -> HostMeasurements:
    """Return the measurements of a host outcome under their names."""
    return cast(HostMeasurements, measurements)
