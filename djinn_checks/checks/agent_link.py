"""What the KV copies have to do with the link: its ceiling each way, and the bytes that were counted on it.

The counters count bytes on the wire, other ones for each direction. The two ceilings are measured with copies
of known size while the counters are being read, and so calibrate them.

They also time a move, whatever the server says of it. What is counted rises by the KV's bytes from when the first of
them passes to when the last does. The first and the last twentieth are left out: a link at rest and what else a turn
sends are far less than that. Between two readings nothing is known but that no more can have passed than the link
carries at its ceiling, so the time found is the least that agrees with the readings. For a move at the link's speed
that is the time itself; a slow one looks faster by less than the gap between two readings at either end.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import torch

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.counters import CounterSampler, CounterSeries
from djinn_checks.instruments.environment import find_uuid
from djinn_checks.instruments.link_ceiling import Ceiling, measure_ceiling

_DIRECTIONS = {"out": ("d2h", "tx"), "in": ("h2d", "rx")}
_EDGE = 0.05
"""Share of a move's bytes that is left out of its timing at either end."""


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

    def seconds_to_move(
        self, direction: str, nbytes: int, start_s: float, end_s: float, *, rest_bytes_per_s: float
    ) -> float | None:
        """Return the least seconds in which so many payload bytes can have gone one way between two times.

        Args:
            rest_bytes_per_s: payload that the link is counted to carry at rest; it is taken off.

        Returns:
            None if they were not counted, or if fewer bytes came.
        """
        ratio, rate = self._wire_per_payload(direction), self.ceilings[direction].bytes_per_s
        found = self.series and self.series.sums_between(start_s, end_s, _DIRECTIONS[direction][1])
        if not ratio or not found:
            return None
        times, wire = found
        passed = np.maximum.accumulate(wire / ratio - rest_bytes_per_s * (times - start_s))
        low, high = _EDGE * nbytes, (1 - _EDGE) * nbytes
        if passed[-1] < high:
            return None
        begun, ended = int(np.argmax(passed >= low)), int(np.argmax(passed >= high))
        latest_start = max(times[begun - 1], times[begun] - (passed[begun] - low) / rate)
        earliest_end = min(times[ended], times[ended - 1] + max(0.0, high - passed[ended - 1]) / rate)
        return max(float(earliest_end - latest_start), (high - low) / rate) / (1 - 2 * _EDGE)

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
        for direction, (kind, _) in _DIRECTIONS.items():
            self.ceilings[direction] = measure_ceiling(self._device, direction=kind)
        torch.cuda.empty_cache()
        return self

    def __exit__(self, *exc: object) -> None:
        self._exit.close()

    def evidence(self) -> LinkEvidence:
        """Return what was counted so far."""
        series = self._sampler.read() if self._sampler else None
        return LinkEvidence(ceilings=self.ceilings, series=series, reason=self._reason)
