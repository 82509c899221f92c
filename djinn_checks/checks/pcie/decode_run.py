"""What was seen of a system while it decoded: plain figures, which a replay reads without having the system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SeenWeights:
    """What one pass was seen to use of them."""

    known_bytes: int
    """Of all weights, equal ones once."""
    exact_bytes: int
    """The part that was used bit for bit, equal ones once."""
    written_bytes: int
    """Bytes that were certainly written in that pass, as the witness proves."""
    missing: tuple[str, ...]
    """Weights that were not seen in use bit for bit, by name."""


@dataclass(frozen=True, kw_only=True)
class DecodeRun:
    """What was seen of a system under load. Instants are seconds on CLOCK_MONOTONIC."""

    start_s: float
    end_s: float
    pass_ends_s: tuple[float, ...]
    predicted_bytes: int | None
    """Bytes per pass, by the system's plan."""
    claimed_bytes: int | None
    """Bytes that the system claims for the time from start to end."""
    witnessed_bytes: int | None
    """Bytes that were certainly written in one pass before the start (weight witness). None if nothing was seen,
    and on a GPU, where the counters see the link itself."""
    peak_device_bytes: int | None
    """Most device memory that was reserved or taken; None on a CPU."""
    host_growth_bytes: int | None
    """How far the process's resident memory grew beyond what it was before the system opened."""
    open_s: float
    timeline: tuple[dict[str, Any], ...]
    """The system's own account of its last copies and computations; empty if it keeps none."""
    seen: SeenWeights | None = None
    """Of a system that encodes, the weights that one pass before the start was seen to use; None if none was seen."""
    held_bytes: int | None = None
    """Device memory that PyTorch's allocator had given out when a pass ended, the median: what lies there at least half
    of the time. None on a CPU."""
    beside_bytes: int | None = None
    """Device memory that was taken beside the allocator since before the system was built, whoever took it."""
    stretches: tuple[float | None, ...] = ()
    """The share of full windows in each stretch of decoding, in order, None if it is not known; the run is the stretch
    with the most."""

    @property
    def seconds_per_pass(self) -> float:
        """Mean over the run."""
        return (self.end_s - self.start_s) / len(self.pass_ends_s)
