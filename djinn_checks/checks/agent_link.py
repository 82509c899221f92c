"""What the KV copies have to do with the link: its ceiling each way, and the bytes that were counted on it.

The counters count bytes on the wire, other ones for each direction. The two ceilings are measured with copies
of known size while the counters are being read, and so calibrate them.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.counters import CounterSampler, CounterSeries
from djinn_checks.instruments.environment import find_uuid
from djinn_checks.instruments.link_ceiling import Ceiling, measure_ceiling

_DIRECTIONS = {"out": ("d2h", "tx"), "in": ("h2d", "rx")}


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
