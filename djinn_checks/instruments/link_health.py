"""The health of a PCIe link over a run: how it trained, what it had to send again, and what slowed the clocks.

Why this is valid. NVML counts replays, errors and recoveries since the driver was loaded, and a healthy link has some
of each, so only differences over a run mean something. They are read once a second by the process that reads the byte
counters. A link that trains down keeps counting bytes as before: it is slower, and everything that is held against the
ceiling of a minute ago looks like the system's doing.

How many replays are too many. The PCI Express Base Specification asks of a receiver, from 2.5 to 32 GT/s, no more than
one wrong bit in 10^12 on each lane. A wrong bit spoils at most a packet, which is sent again; so a link within the
specification has no more replays than bits over 10^12, both ways together: one per second on a PCIe 5.0 x16. From
64 GT/s on errors are corrected on the way and the specification counts otherwise: no rate is stated there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from djinn_checks.errors import InstrumentError

BIT_ERROR_RATE = 1e-12
LANE_BITS_PER_S = {1: 2.5e9, 2: 5e9, 3: 8e9, 4: 16e9, 5: 32e9}
"""By generation, each way."""
ERRORS = ("replays", "replay_rollovers", "l0_to_recovery", "correctable_errors", "naks_received", "naks_sent",
          "receiver_errors", "bad_tlps", "bad_dllps", "lcrc_errors", "lane_errors", "non_fatal_errors",
          "fatal_errors", "unsupported_requests")  # fmt: skip
"""What is counted, by our names, as `nvml.list_health_queries` gives it."""
SLOWING_CLOCKS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "external power brake",
}
"""NVML's bits of clock event reasons that slow a GPU against its user's will."""
_LATEST_S = 3.0
"""A sample stands for an instant that is no further from it."""


@dataclass(frozen=True, kw_only=True)
class HealthSample:
    """What was read at one moment. None is not supported, or not told."""

    t_s: float
    """CLOCK_MONOTONIC."""
    generation: int | None
    width: int | None
    clock_reasons: int | None
    """NVML's bits."""
    pins: int | None
    """Pages that the kernel pinned for devices since it started, whoever asked for it."""
    counts: Mapping[str, int | None]
    """By the names of `ERRORS`."""

    @property
    def slowed_by(self) -> tuple[str, ...]:
        """Why the clocks are slow, in words."""
        return tuple(words for bit, words in SLOWING_CLOCKS.items() if (self.clock_reasons or 0) & bit)

    @property
    def speed(self) -> int:
        """How fast the link is as it is trained, in lanes of the first generation: each doubles the rate of a lane."""
        return (self.width or 0) << (self.generation or 0)

    @property
    def trained(self) -> str:
        """The link's training in words."""
        return f"gen {self.generation or '?'} x{self.width or '?'}"


@dataclass(frozen=True)
class LinkHealth:
    """Samples of a link's health, about a second apart, in order of time."""

    samples: tuple[HealthSample, ...]

    def around(self, start_s: float, end_s: float) -> tuple[HealthSample, ...]:
        """Return the samples from the last one before start to the first one after end.

        Empty if there is none near one of the ends: what happened there is not known.
        """
        before = [sample for sample in self.samples if sample.t_s <= start_s]
        after = [sample for sample in self.samples if sample.t_s >= end_s]
        inside = [sample for sample in self.samples if start_s < sample.t_s < end_s]
        found = (*before[-1:], *inside, *after[:1])
        if not found or found[0].t_s > start_s + _LATEST_S or found[-1].t_s < end_s - _LATEST_S:
            return ()
        return found

    def difference(self, name: str, start_s: float, end_s: float) -> int | None:
        """Return how far a counter of `ERRORS` came from start to end; None if it is not known or was set back."""
        found = self.around(start_s, end_s)
        first, last = (found[0].counts.get(name), found[-1].counts.get(name)) if len(found) > 1 else (None, None)
        return None if first is None or last is None or last < first else last - first

    def pages_pinned(self, start_s: float, end_s: float) -> int | None:
        """Return how many pages were pinned for devices from start to end, by anyone on the machine."""
        found = self.around(start_s, end_s)
        first, last = (found[0].pins, found[-1].pins) if len(found) > 1 else (None, None)
        return None if first is None or last is None else max(0, last - first)


def most_carried(generation: int | None, width: int | None) -> float | None:
    """Return the bytes per second, each way, that no such link exceeds: its raw rate; None where it is not known."""
    rate = LANE_BITS_PER_S.get(generation or 0)
    return None if rate is None or not width else rate * width / 8


def find_most_carried(uuid: str) -> float | None:
    """Return what this GPU's link carries at most, in bytes/s on the wire, trained as high as it can be.

    None where the driver does not say.
    """
    from djinn_checks.instruments import nvml

    try:
        with nvml.open_nvml():
            link = nvml.read_link(nvml.find_handle(uuid))
    except InstrumentError:
        return None
    return most_carried(link["max_generation"], link["max_width"])


def most_replays(generation: int | None, width: int | None, seconds: float) -> int | None:
    """Return how many replays a link within the specification has in so long a time, by chance included.

    That is the mean of a link at the specification's limit, and three standard deviations beyond it. None where the
    training is not known or no rate is stated.
    """
    rate = LANE_BITS_PER_S.get(generation or 0)
    if rate is None or not width:
        return None
    mean = 2 * width * rate * BIT_ERROR_RATE * seconds
    return math.ceil(mean + 3 * math.sqrt(mean))


def parse_health(path: Path) -> LinkHealth:
    """Return the health that the sampler wrote down, a line of JSON each second; a line cut short is left out.

    Without the file there is none.
    """
    samples = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        samples.append(
            HealthSample(
                t_s=float(found["t_s"]),
                generation=found.get("generation"),
                width=found.get("width"),
                clock_reasons=found.get("clock_reasons"),
                pins=found.get("pins"),
                counts={name: found.get(name) for name in ERRORS},
            )
        )
    return LinkHealth(tuple(samples))
