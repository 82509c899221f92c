"""Links within host memory that have a defect: drivers for the process of a link, given by their names."""

from __future__ import annotations

import time
from pathlib import Path

from djinn_checks.checks.host.driver import Part
from djinn_checks.checks.host.stand_in import StandIn

_PAGES = 2**21
"""8 GB of 4 KiB pages."""


class _AfterSome(StandIn):
    """Changes in the midst of a run: from its fifth stage on."""

    def __init__(self, board: Path, bytes_per_s: float) -> None:
        super().__init__(board, bytes_per_s)
        self._stages = 0

    def copy(self, direction: str, memory: str, at_s: float, for_s: float) -> list[Part]:
        self._stages += 1
        if self._stages == 5:
            self.change()
        return super().copy(direction, memory, at_s, for_s)

    def change(self) -> None:
        """Do what the defect is."""


class _Narrows(_AfterSome):
    """Trains down to half its lanes."""

    def change(self) -> None:
        self.board.write("width", 8)


class _Pins(_AfterSome):
    """Has a neighbour that pins 8 GB, which keeps the readings waiting."""

    def change(self) -> None:
        self.board.write("pins", self.board.read("pins") + _PAGES)
        self.board.write("silent_until_us", int((time.monotonic() + 0.15) * 1e6))


class _Dies(_AfterSome):
    """Ends without a word."""

    def change(self) -> None:
        raise SystemExit(9)


class _Hangs(_AfterSome):
    """Never comes back from a copy."""

    def change(self) -> None:
        time.sleep(3600)


class _LosesBytes(StandIn):
    """Copies other bytes than it was given."""

    def verify(self) -> bool:
        self._targets["h2d"][0] ^= 1
        return super().verify()


class _CopiesUncounted(StandIn):
    """Copies a twentieth more than its counters see."""

    def copy(self, direction: str, memory: str, at_s: float, for_s: float) -> list[Part]:
        found = super().copy(direction, memory, at_s, for_s)
        return [
            Part(direction=part.direction, nbytes=part.nbytes * 21 // 20, start_s=part.start_s, seconds=part.seconds)
            for part in found
        ]


_DEFECTS = {
    "narrows": _Narrows,
    "pins": _Pins,
    "dies": _Dies,
    "hangs": _Hangs,
    "loses_bytes": _LosesBytes,
    "copies_uncounted": _CopiesUncounted,
}


def open_link(board: str, bytes_per_s: float, defect: str, share: float = 1.0) -> StandIn:
    """Return a stand-in with a defect; `slow` has a share of its rate."""
    if defect == "slow":
        return StandIn(Path(board), share * bytes_per_s)
    return _DEFECTS[defect](Path(board), bytes_per_s)
