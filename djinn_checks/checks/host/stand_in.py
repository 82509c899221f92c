"""A link within host memory that stands in for a GPU's, where there is none.

It copies real bytes between two places in host memory, and counts them on a board as a GPU counts its own (`board.py`).
Its clock is its own: each copy has a fixed time on it, so what it says of its rate does not depend on who else uses the
processors. It proves the machinery from the barrier to the verdict, and nothing about the machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from djinn_checks.checks.host.driver import Latency, Part, list_ways, wait_until
from djinn_checks.instruments.board import Board
from djinn_checks.units import MIB

_CHUNK_BYTES = MIB // 2


class StandIn:
    """Copies at a steady pace."""

    def __init__(self, board: Path, bytes_per_s: float) -> None:
        """Have its memory and its board ready."""
        self.board, self.bytes_per_s = Board(board), bytes_per_s
        self.board.write("generation", 5)
        self.board.write("width", 16)
        random = np.random.default_rng(0)
        self._sources = {way: random.integers(0, 256, _CHUNK_BYTES, dtype=np.uint8) for way in ("h2d", "d2h")}
        self._targets = {way: np.zeros(_CHUNK_BYTES, dtype=np.uint8) for way in ("h2d", "d2h")}

    def describe(self) -> dict[str, Any]:
        """Return that its memory is bound nowhere."""
        return {"near": None, "far": None, "bound": False}

    def copy(self, direction: str, memory: str, at_s: float, for_s: float) -> list[Part]:
        """Copy chunk after chunk, each when its time has come, and catch up after whatever kept it waiting."""
        period = _CHUNK_BYTES / self.bytes_per_s
        count = max(1, round(for_s / period))
        ways = list_ways(direction)
        for number in range(count):
            wait_until(at_s + number * period)
            for way in ways:
                np.copyto(self._targets[way], self._sources[way])
                self.board.count(**{"received" if way == "h2d" else "sent": _CHUNK_BYTES})
        nbytes = count * _CHUNK_BYTES
        return [Part(direction=way, nbytes=nbytes, start_s=at_s, seconds=count * period) for way in ways]

    def measure_latency(self, direction: str, for_s: float) -> Latency:
        """Return what its pace gives a small copy."""
        return Latency(direction=direction, copies=1, median_us=10.0, p99_us=10.0)

    def verify(self) -> bool:
        """Compare what lies on either side of all copies that were made."""
        pairs = ((self._sources[way], target) for way, target in self._targets.items() if target.any())
        return all(np.array_equal(*pair) for pair in pairs)


def open_link(board: str, bytes_per_s: float) -> StandIn:
    """Return a stand-in of so many bytes a second."""
    return StandIn(Path(board), bytes_per_s)
