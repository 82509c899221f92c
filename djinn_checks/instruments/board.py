"""The counters of a link that stands in for a GPU's: a small file that its driver writes and the sampler reads.

It has what a GPU has: wire bytes received and sent, modulo 2^32; generation, width, replays and reasons of slow clocks;
and beside them the pages that were pinned on its machine. As on a GPU each reading moves some bytes itself.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from pathlib import Path

from djinn_checks.instruments.payload import ANSWER_BYTES, LARGEST_REQUEST_BYTES, REQUEST_BYTES

_WRAP = 2**32
_FIELDS = ("rx", "tx", "generation", "width", "replays", "clock_reasons", "pins", "silent_until_us")
_NUMBER_BYTES = 8
READING_RX_BYTES, READING_TX_BYTES = 14_000, 17_000
"""What a reading moves itself, as on an H200."""


class Board:
    """The file, as the driver and the sampler both see it."""

    def __init__(self, path: Path) -> None:
        """Open the file; one that is new has zeros."""
        size = _NUMBER_BYTES * len(_FIELDS)
        with path.open("a+b") as file:
            if file.seek(0, 2) < size:
                file.truncate(size)
            self._numbers = memoryview(mmap.mmap(file.fileno(), size)).cast("q")

    def read(self, name: str) -> int:
        """Return a field."""
        return self._numbers[_FIELDS.index(name)]

    def write(self, name: str, value: int) -> None:
        """Set a field in one store of eight aligned bytes: a reader sees what it was or what it is.

        `struct` would not do: it sets all bytes to zero, and then one after the other.
        """
        self._numbers[_FIELDS.index(name)] = value

    def count(self, *, received: int = 0, sent: int = 0) -> None:
        """Count payload as a GPU does on the wire: a request for each 256 bytes, and something beside each answer."""
        size = LARGEST_REQUEST_BYTES
        self.write("rx", self.read("rx") + received * (size + ANSWER_BYTES) // size)
        self.write("tx", self.read("tx") + received * REQUEST_BYTES // size + sent * (size + REQUEST_BYTES) // size)


def open_counters(path: Path) -> Callable[[], tuple[int, int]]:
    """Return a function that reads (received, sent), modulo 2^32; it waits while the board is silent."""
    board, readings = Board(path), 0

    def read() -> tuple[int, int]:
        nonlocal readings
        readings += 1
        silent_s = board.read("silent_until_us") / 1e6 - time.monotonic()
        if silent_s > 0:
            time.sleep(silent_s)
        rx, tx = board.read("rx"), board.read("tx")
        return (rx + readings * READING_RX_BYTES) % _WRAP, (tx + readings * READING_TX_BYTES) % _WRAP

    return read


def open_health(path: Path) -> Callable[[], dict[str, int | None]]:
    """Return a function that reads the health of the link."""
    board = Board(path)

    def read() -> dict[str, int | None]:
        names = ("generation", "width", "replays", "clock_reasons", "pins")
        quiet: dict[str, int | None] = dict.fromkeys(("non_fatal_errors", "fatal_errors", "l0_to_recovery"), 0)
        return quiet | {name: board.read(name) for name in names}

    return read
