"""What the host check knows when a run is over: the links, the stages that they went through, and what was counted.

Everything is plain but the series of the counters, so that a run can be recorded and judged again (`recording.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from djinn_checks.checks.host.driver import BOTH, D2H, FAR, H2D, NEAR, Latency, Part
from djinn_checks.checks.host.plan import HostPlan, LinkPlan
from djinn_checks.instruments.counters import CounterSeries
from djinn_checks.instruments.link_health import LinkHealth
from djinn_checks.params import HostParams

ALONE, TOGETHER = "alone", "together"
_MOST_OF_CEILING = 1.25
"""What a link carries on the wire at most, of its fastest payload alone: packets' own bytes, and a slow measurement."""
DIRECTIONS = (H2D, D2H, BOTH)


@dataclass(frozen=True, kw_only=True)
class Copies:
    """What one link did in a stage."""

    parts: tuple[Part, ...]
    began_s: float
    """CLOCK_MONOTONIC, before the first copy; `ended_s` behind the last."""
    ended_s: float

    @property
    def bytes_per_s(self) -> float:
        """Of its directions together."""
        return sum(part.bytes_per_s for part in self.parts)

    def nbytes(self, way: str) -> int:
        """Return what was copied in a direction."""
        return sum(part.nbytes for part in self.parts if part.direction == way)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One time that one or all links were driven."""

    kind: str
    """ALONE or TOGETHER."""
    direction: str
    memory: str
    round: int
    start_s: float
    """CLOCK_MONOTONIC, with quiet margins on both sides."""
    end_s: float
    copies: Mapping[str, Copies]
    """By the UUID of each link that was driven and came to the end."""

    @property
    def bytes_per_s(self) -> float:
        """Of all links."""
        return sum(copies.bytes_per_s for copies in self.copies.values())

    @property
    def overlap(self) -> float:
        """The time in which all were copying, as a share of the longest."""
        parts = [part for copies in self.copies.values() for part in copies.parts]
        start = max((part.start_s for part in parts), default=0.0)
        end = min((part.start_s + part.seconds for part in parts), default=0.0)
        return max(0.0, end - start) / max((part.seconds for part in parts), default=1.0)


@dataclass(frozen=True, kw_only=True)
class PeerCopies:
    """Copies from one GPU to another, by UUID."""

    source: str
    to: str
    start_s: float
    end_s: float
    nbytes: int
    bytes_per_s: float


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One link after the run."""

    plan: LinkPlan
    series: CounterSeries | None
    """None where nothing counts it."""
    health: LinkHealth | None
    why_not_counted: str = ""
    near_node: int | None = None
    """Where its memory was found to lie; `far_node` likewise. None is unknown."""
    far_node: int | None = None
    bound: bool = False
    verified: bool | None = None
    """Whether the bytes of its copies arrived; None: it was lost before that."""
    lost: str = ""
    """Why its process did not come to the end; empty if it did."""
    latencies: tuple[Latency, ...] = ()

    @property
    def uuid(self) -> str:
        return self.plan.uuid


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Figures that are expected, and who says so."""

    figures: Mapping[str, float] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class HostEvidence:
    """Everything that the criteria are judged by."""

    params: HostParams
    subject: str
    """PCIE, HOST_MEMORY or REPLAY."""
    plan: HostPlan
    seen: tuple[Seen, ...]
    stages: tuple[Stage, ...]
    idle_s: tuple[float, float]
    """A time after everything was pinned and before the first stage, in which nothing ran."""
    end_s: float
    """When the last stage was over."""
    peers: tuple[PeerCopies, ...] = ()
    peers_missing: str = ""
    """Why there are no copies between GPUs; empty if there are, or there is one link."""
    expected: Expectation = Expectation()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def of(self, uuid: str) -> Seen:
        """Return the link of a UUID."""
        return next(link for link in self.seen if link.uuid == uuid)

    def list_stages(self, kind: str, direction: str, memory: str = NEAR) -> list[Stage]:
        """Return all rounds of a stage."""
        wanted = (kind, direction, memory)
        return [stage for stage in self.stages if (stage.kind, stage.direction, stage.memory) == wanted]

    @cached_property
    def alone(self) -> dict[str, dict[str, float]]:
        """Bytes/s of each link alone by direction, of the fastest round; others can only slow a copy down."""
        return {link.uuid: self._alone(link.uuid, NEAR) for link in self.seen}

    @cached_property
    def alone_far(self) -> dict[str, dict[str, float]]:
        """Likewise from and to the memory of another NUMA node; empty where there is none."""
        return {link.uuid: found for link in self.seen if (found := self._alone(link.uuid, FAR))}

    def _alone(self, uuid: str, memory: str) -> dict[str, float]:
        rates = {way: self.list_rates(uuid, way, memory) for way in DIRECTIONS}
        return {way: max(found) for way, found in rates.items() if found}

    def list_rates(self, uuid: str, direction: str, memory: str = NEAR) -> list[float]:
        """Return the rates of a link alone, round by round."""
        stages = self.list_stages(ALONE, direction, memory)
        return [stage.copies[uuid].bytes_per_s for stage in stages if uuid in stage.copies]

    @cached_property
    def fitted(self) -> dict[str, CounterSeries | None]:
        """The counters of each link, their holes those of a link of its rate: gaps in which a wrap may have passed."""
        fastest = {link.uuid: max(self.alone[link.uuid].get(way, 0.0) for way in (H2D, D2H)) for link in self.seen}
        return {
            link.uuid: link.series.over(_MOST_OF_CEILING * fastest[link.uuid])
            if link.series is not None and fastest[link.uuid]
            else link.series
            for link in self.seen
        }

    @cached_property
    def together(self) -> dict[str, Stage]:
        """By direction the round in which all links together were fastest."""
        rounds = {way: self.list_stages(TOGETHER, way) for way in DIRECTIONS}
        return {way: max(found, key=lambda stage: stage.bytes_per_s) for way, found in rounds.items() if found}

    def share_of_alone(self, uuid: str, direction: str) -> float | None:
        """Return what a link had of its rate alone while all were driven; None if one of the two is not known."""
        alone, stage = self.alone[uuid].get(direction), self.together.get(direction)
        if not alone or stage is None or uuid not in stage.copies:
            return None
        return stage.copies[uuid].bytes_per_s / alone
