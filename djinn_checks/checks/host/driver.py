"""What drives a link in the process that is its own: copies behind a common instant, and what was seen of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

H2D, D2H, BOTH = "h2d", "d2h", "both"
NEAR, FAR = "near", "far"
SMALL_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Part:
    """Copies in one direction. Seconds are on the clock of the link, the start on CLOCK_MONOTONIC."""

    direction: str
    nbytes: int
    start_s: float
    seconds: float

    @property
    def bytes_per_s(self) -> float:
        return self.nbytes / self.seconds


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long single small copies took, from the call to their end."""

    direction: str
    copies: int
    median_us: float
    p99_us: float


class LinkDriver(Protocol):
    """One link. Whatever memory it needs is had, touched and pinned when it is made, and none after."""

    def describe(self) -> dict[str, Any]:
        """Return where its memory lies, as plain data."""
        ...

    def copy(self, direction: str, memory: str, at_s: float, for_s: float) -> list[Part]:
        """Copy without a pause from an instant on, for so long."""
        ...

    def measure_latency(self, direction: str, for_s: float) -> Latency:
        """Copy a few kilobytes, one copy after the other."""
        ...

    def verify(self) -> bool:
        """Tell whether the bytes of all copies so far are the ones that were sent."""
        ...


def list_ways(direction: str) -> list[str]:
    """Return the directions that one of a stage stands for."""
    return [H2D, D2H] if direction == BOTH else [direction]


def wait_until(at_s: float) -> None:
    """Return at an instant of CLOCK_MONOTONIC, at once if it has gone by."""
    while (rest := at_s - time.monotonic()) > 0:
        time.sleep(rest - 0.001 if rest > 0.002 else 0)
