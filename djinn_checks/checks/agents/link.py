"""What the KV copies have to do with the link: its ceiling each way, and the bytes that were counted on it.

The counters count bytes on the wire, other ones for each direction. The two ceilings are measured with copies
of known size while the counters are being read, and so calibrate them.

They also time a move, whatever the server says of it: `instruments/burst.py`. What other traffic there is in that time
would pass for the KV, so a move is timed only on a link that is quiet while the agent sleeps, and that carried little
else until then.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import torch

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.burst import BurstTime, time_burst
from djinn_checks.instruments.ceiling import Ceiling
from djinn_checks.instruments.counters import CounterSampler, CounterSeries
from djinn_checks.instruments.environment import find_uuid
from djinn_checks.instruments.link_ceiling import measure_ceiling
from djinn_checks.units import MB

_DIRECTIONS = {"out": ("d2h", "tx"), "in": ("h2d", "rx")}
_MOST, _ALL = 0.9, 0.98
"""Shares of a move's bytes that are timed. A twentieth of a move of 20 ms passes between two readings, so how long most
of it took is known closely; of all but what the calibration may be off by, only the least time."""
MOST_AT_REST_BYTES_PER_S = 50 * MB
"""What a link may carry while nothing moves; a thousand readings a second make 15 to 22 MB/s of it on an H200."""
_SURPLUS, _SURPLUS_BYTES = 0.03, 8 * MB
"""What may be counted beyond a session's KV, as a share of it and in bytes: on an H200 0.4 % and 4 MB were."""


@dataclass(frozen=True, kw_only=True)
class LinkEvidence:
    """The link during the sleeper's sleeps."""

    ceilings: dict[str, Ceiling]
    """By direction: "out" of the device, and "in"."""
    series: CounterSeries | None
    reason: str = ""
    """Why there is no series."""

    def counted(self, direction: str, start_s: float, end_s: float) -> float | None:
        """Return the payload bytes that went one way between two times; None if they were not counted."""
        ratio = self._wire_per_payload(direction)
        if self.series is None or not ratio:
            return None
        wire = self.series.bytes_between(start_s, end_s, _DIRECTIONS[direction][1])
        return None if wire is None else wire / ratio

    def time_move(self, direction: str, nbytes: int, start_s: float, end_s: float) -> BurstTime | None:
        """Return how long so many payload bytes took to go one way between two times.

        None if they were not counted, or if fewer came.
        """
        ratio = self._wire_per_payload(direction)
        if self.series is None or not ratio:
            return None
        top, rx_or_tx = ratio * self.ceilings[direction].bytes_per_s, _DIRECTIONS[direction][1]
        most, everything = (
            time_burst(self.series, share * nbytes * ratio, start_s, end_s, direction=rx_or_tx, top_bytes_per_s=top)
            for share in (_MOST, _ALL)
        )
        if most is None or everything is None:
            return None
        whole_s = everything.least_s / _ALL
        return BurstTime(least_s=max(most.least_s / _MOST, whole_s), greatest_s=max(most.greatest_s / _MOST, whole_s))

    def is_only(self, counted: float, nbytes: int) -> bool:
        """Tell whether the payload that was counted is hardly more than a session's KV."""
        return counted <= (1 + _SURPLUS) * nbytes + _SURPLUS_BYTES

    def _wire_per_payload(self, direction: str) -> float | None:
        ceiling = self.ceilings[direction]
        wire = self.series and self.series.bytes_between(ceiling.start_s, ceiling.end_s, _DIRECTIONS[direction][1])
        return wire / ceiling.copied_bytes if wire else None


class LinkWitness:
    """Counts what goes over the link of a GPU, as a context manager; the ceilings are measured on entry."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._exit = contextlib.ExitStack()
        self._sampler: CounterSampler | None = None
        self._reason = ""
        self.ceilings: dict[str, Ceiling] = {}

    def __enter__(self) -> LinkWitness:
        try:
            self._sampler = self._exit.enter_context(CounterSampler(find_uuid(self._device)))
        except InstrumentError as error:
            self._reason = str(error)
        if self._sampler is not None and self._sampler.source is None:
            self._reason = "; ".join(f"{source}: {reason}" for source, reason in self._sampler.reasons.items())
        self.ceilings = self._measure()
        return self

    def __exit__(self, *exc: object) -> None:
        self._exit.close()

    def measure_again(self) -> None:
        """Measure the ceilings once more, and let the faster rates count.

        Others on the machine can only slow a copy, and did by 2.7 % for as long as a measurement takes. The counters
        stay calibrated by the first one, beside which no server ran. On a device that is full by now it stands alone.
        """
        with contextlib.suppress(torch.OutOfMemoryError):
            for direction, found in self._measure().items():
                known = self.ceilings[direction]
                fastest = max(known.bytes_per_s, found.bytes_per_s)
                self.ceilings[direction] = replace(known, bytes_per_s=fastest)

    def evidence(self) -> LinkEvidence:
        """Return what was counted so far."""
        series = self._sampler.read() if self._sampler else None
        return LinkEvidence(ceilings=dict(self.ceilings), series=series, reason=self._reason)

    def _measure(self) -> dict[str, Ceiling]:
        found = {name: measure_ceiling(self._device, direction=kind) for name, (kind, _) in _DIRECTIONS.items()}
        torch.cuda.empty_cache()
        return found
