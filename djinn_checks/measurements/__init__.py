"""What checks measure and reports read: the shape of each outcome's plain data. Standard library only."""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict

from djinn_checks.measurements.agents import AgentsMeasurements, AgentsTimings
from djinn_checks.measurements.faults import FaultsMeasurements, FaultsTimings
from djinn_checks.measurements.host import HostMeasurements
from djinn_checks.measurements.logits import LogitsMeasurements, LogitsTimings
from djinn_checks.measurements.pcie import PcieMeasurements


class Shapes(NamedTuple):
    """What an outcome of a check holds, as TypedDicts."""

    measurements: Any
    timings: Any


class _NoTimings(TypedDict, total=False):
    """Beside what every check is timed by."""


_SHAPES = {
    "agents": Shapes(AgentsMeasurements, AgentsTimings),
    "faults": Shapes(FaultsMeasurements, FaultsTimings),
    "host": Shapes(HostMeasurements, _NoTimings),
    "logits": Shapes(LogitsMeasurements, LogitsTimings),
    "pcie": Shapes(PcieMeasurements, _NoTimings),
}


def find_shapes(check: str) -> Shapes | None:
    """Return the shapes of a check's plain data; None of a check that this version does not know."""
    return _SHAPES.get(check)


class Cpu(TypedDict, total=False):
    """The processor."""

    model: str | None
    cores: int | None
    threads: int | None


class Gpu(TypedDict, total=False):
    """The device."""

    name: str | None
    memory_bytes: int | None
    driver: str | None


class Source(TypedDict, total=False):
    """The commit that a package was installed from."""

    commit: str | None
    dirty: bool | None


class Facts(TypedDict, total=False):
    """Of machine and software, those that reports and comparisons read by their names."""

    platform: str | None
    device: str | None
    cpu: Cpu | None
    gpu: Gpu | None
    packages: dict[str, str | None] | None
    source: Source | None
