"""Sources of counters for the sampler process (`--source tests.instruments.fake_counters:<name>`)."""

from __future__ import annotations

import time
from collections.abc import Callable

RATE_BYTES_PER_S = 50e9


def steady() -> Callable[[], tuple[int, int]]:
    """A link that carries 50 GB/s one way and 5 the other, counted modulo 2^32."""
    return lambda: (
        int(time.monotonic() * RATE_BYTES_PER_S) % 2**32,
        int(time.monotonic() * RATE_BYTES_PER_S / 10) % 2**32,
    )


def frozen() -> Callable[[], tuple[int, int]]:
    """A counter that does not count."""
    return lambda: (12345, 678)


def dies() -> Callable[[], tuple[int, int]]:
    """A driver that goes away after a tenth of a second."""
    start = time.monotonic()

    def read() -> tuple[int, int]:
        if time.monotonic() - start > 0.1:
            raise RuntimeError("GPU is lost")
        return int(time.monotonic() * 1e9) % 2**32, 0

    return read


def trains_down() -> Callable[[], dict[str, int | None]]:
    """A link's health: generation 5 at first and 3 ever after, and 7 more replays each time."""
    looks = iter(range(1_000_000))

    def read() -> dict[str, int | None]:
        look = next(looks)
        return {
            "generation": 5 if look == 0 else 3,
            "width": 16,
            "clock_reasons": 0x4,
            "replays": 7 * look,
            "pins": None,
        }

    return read
