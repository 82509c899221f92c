"""What a link carries at best, as `link_ceiling.py` measures it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The payload rate of one kind of copy."""

    kind: str
    """"pcie" or "host memory"."""
    direction: str
    """h2d, d2h or both (the sum of the two)."""
    pinned: bool
    nbytes: int
    """Bytes of one copy, each way."""
    bytes_per_s: float
    """Of the fastest sample."""
    spread: float
    """(largest - smallest) / smallest of the samples."""
    samples_s: tuple[float, ...]
    """Seconds of one copy, the mean of each round."""
    verified: bool
    """The bytes on the other side were the ones that were sent."""
    start_s: float
    """CLOCK_MONOTONIC before the copies, warm-ups included, with a quiet margin; `end_s` after them."""
    end_s: float
    copied_bytes: int
    """What was copied between the two, each way."""
