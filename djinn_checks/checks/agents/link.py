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
from djinn_checks.instruments.calibration import TRIES
from djinn_checks.instruments.ceiling import Ceiling
from djinn_checks.instruments.counters import CounterSampler, CounterSeries
from djinn_checks.instruments.environment import find_uuid
from djinn_checks.instruments.holes import known_spans, least_between, rate_outside_holes
from djinn_checks.instruments.link_ceiling import measure_ceiling, read_past
from djinn_checks.instruments.link_health import find_most_carried
from djinn_checks.units import MB

_DIRECTIONS = {"out": ("d2h", "tx"), "in": ("h2d", "rx")}
_MOST, _ALL = 0.9, 0.98
"""Shares of a move's bytes that are timed. A twentieth of a move of 20 ms passes between two readings, so how long most
of it took is known closely; of all but what the calibration may be off by, only the least time."""
MOST_AT_REST_BYTES_PER_S = 50 * MB
"""What a link may carry while nothing moves; a thousand readings a second make 15 to 22 MB/s of it on an H200."""
_WIRE_PER_PAYLOAD = 1.15
"""More than a copy has on the wire, as a share of its bytes: on an H200 it has 1.08."""
_SURPLUS, _SURPLUS_BYTES = 0.03, 8 * MB
"""What may be counted beyond a session's KV, as a share of it and in bytes: on an H200 0.4 % and 4 MB were."""


@dataclass(frozen=True)
class Carried:
    """Payload bytes that went over the link."""

    nbytes: float
    is_all: bool
    """Whether all of them were counted; if not, as readings are missing, it was so many or more."""

    def share_of(self, size: float, enough: float) -> float | None:
        """Return their share of a size in bytes; None if more may have passed, and these are not enough."""
        share = self.nbytes / size
        return share if self.is_all or share >= enough else None


@dataclass(frozen=True, kw_only=True)
class LinkEvidence:
    """The link during the sleeper's sleeps."""

    ceilings: dict[str, Ceiling]
    """By direction: "out" of the device, and "in"."""
    series: CounterSeries | None
    reason: str = ""
    """Why there is no series."""

    def carried(self, direction: str, start_s: float, end_s: float) -> Carried | None:
        """Return the payload bytes that went one way between two times; None if they were not counted."""
        ratio = self._wire_per_payload(direction)
        if self.series is None or not ratio:
            return None
        span = start_s, end_s, _DIRECTIONS[direction][1]
        least = least_between(self.series, *span)
        return None if least is None else Carried(least / ratio, is_all=self.series.bytes_between(*span) is not None)

    def rate(self, direction: str, start_s: float, end_s: float) -> float | None:
        """Return payload bytes per second that went one way between two times; None if less than half is known."""
        ratio = self._wire_per_payload(direction)
        if self.series is None or not ratio:
            return None
        wire = rate_outside_holes(self.series, start_s, end_s, _DIRECTIONS[direction][1])
        return None if wire is None else wire / ratio

    def time_move(self, direction: str, nbytes: int, start_s: float, end_s: float) -> BurstTime | None:
        """Return how long so many payload bytes took to go one way between two times.

        None if they were not counted, if fewer came, or if no time between two holes holds them.
        """
        ratio = self._wire_per_payload(direction)
        if self.series is None or not ratio:
            return None
        found = [
            self._time_between_holes(self.series, direction, nbytes, span, ratio)
            for span in known_spans(self.series, start_s, end_s)
        ]
        return min((time for time in found if time), key=lambda time: time.greatest_s, default=None)

    def _time_between_holes(
        self, series: CounterSeries, direction: str, nbytes: int, span: tuple[float, float], ratio: float
    ) -> BurstTime | None:
        top, rx_or_tx = ratio * self.ceilings[direction].bytes_per_s, _DIRECTIONS[direction][1]
        most, everything = (
            time_burst(series, share * nbytes * ratio, *span, direction=rx_or_tx, top_bytes_per_s=top)
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
        self._most_carried: float | None = None
        self.ceilings: dict[str, Ceiling] = {}

    def __enter__(self) -> LinkWitness:
        uuid = find_uuid(self._device)
        self._most_carried = find_most_carried(uuid)
        try:
            self._sampler = self._exit.enter_context(CounterSampler(uuid))
        except InstrumentError as error:
            self._reason = str(error)
        if self._sampler is not None and self._sampler.source is None:
            self._reason = "; ".join(f"{source}: {reason}" for source, reason in self._sampler.reasons.items())
        for _ in range(TRIES):
            self.ceilings = self._measure()
            if self._sampler is None or self._sampler.source is None or self._are_counted(self._sampler):
                break
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
        return LinkEvidence(ceilings=dict(self.ceilings), series=series and self._fit(series), reason=self._reason)

    def _fit(self, series: CounterSeries) -> CounterSeries:
        """Return a series whose holes are those of this link: gaps in which a wrap of the counters could pass on it."""
        fastest = max((ceiling.bytes_per_s for ceiling in self.ceilings.values()), default=0.0)
        if self._most_carried is None:
            return series
        return series.over(
            max(self._most_carried, _WIRE_PER_PAYLOAD * fastest)
        )  # a virtual slot may be named a slow one

    def _are_counted(self, sampler: CounterSampler) -> bool:
        """Whether no reading is missing in the copies that calibrate the counters."""
        spans = [(ceiling.start_s, ceiling.end_s) for ceiling in self.ceilings.values()]
        series = self._fit(read_past(sampler, max(end_s for _, end_s in spans)))
        return all(series.bytes_between(*span) is not None for span in spans)

    def _measure(self) -> dict[str, Ceiling]:
        found = {name: measure_ceiling(self._device, direction=kind) for name, (kind, _) in _DIRECTIONS.items()}
        torch.cuda.empty_cache()
        return found
