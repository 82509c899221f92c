"""What the logits check asks of the link's counters and of the driver's memory count: figures from outside the process.

A sampler in a process of its own reads the GPU's counters while all passes run, so that a system has no part in them.
Bytes read are RX - 20/24 TX, for whatever reads (`instruments/payload.py`). Data on their way to the host make that too
little, and never too much; what the largest requests would have got out of RX is too much, and never too little.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.counters import RATE_SOURCES, CounterSampler, CounterSeries
from djinn_checks.instruments.device_tenants import DeviceTenants
from djinn_checks.instruments.link_health import find_most_carried
from djinn_checks.instruments.payload import ANSWER_BYTES, LARGEST_REQUEST_BYTES, REQUEST_BYTES

_COPY_WIRE_PER_PAYLOAD = 1 + ANSWER_BYTES / LARGEST_REQUEST_BYTES

PayloadBetween = Callable[[float, float], float | None]
"""From a span on CLOCK_MONOTONIC, in seconds, to the bytes that the device read; None is lost evidence."""


def _as_it_is(start_s: float, end_s: float) -> tuple[float, float] | None:
    return start_s, end_s


@dataclass(frozen=True, kw_only=True)
class LinkEvidence:
    """What was counted while the passes ran."""

    payload_between: PayloadBetween | None = None
    """At least so many bytes. None: nothing was counted, for the reason that is given."""
    most_between: PayloadBetween | None = None
    """At most so many; None: the same."""
    reason: str = ""
    enclose: Callable[[float, float], tuple[float, float] | None] = _as_it_is
    """From a forward to the span between two readings that it certainly lies in; None if readings are missing.

    A reading takes half a millisecond, and some ten times as long while kernels read host memory in place."""
    beside_bytes: int | None = None
    """Most device memory that was taken beside PyTorch's allocator of this process, by whomever; None: not measured."""
    ours_bytes: int | None = None
    """The part of it that is this process's and its children's; None: the driver does not say whose it is."""


@dataclass
class LinkWatch:
    """Counts while it is entered, on a GPU; on a CPU there is nothing to count."""

    device: torch.device
    _sampler: CounterSampler | None = None
    _most_carried: float | None = None
    _tenants: DeviceTenants | None = None
    _reason: str = "this machine has no PCIe GPU, so there are no counters to read"
    _series: CounterSeries | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count while the block runs."""
        if self.device.type != "cuda":
            yield
            return
        from djinn_checks.instruments.environment import find_uuid

        uuid = find_uuid(self.device)
        self._most_carried = find_most_carried(uuid)
        self._tenants = DeviceTenants(self.device, uuid, os.getpid())
        sampler = CounterSampler(uuid)
        try:
            sampler.__enter__()
        except InstrumentError as error:
            self._reason = str(error)
            yield
            return
        with contextlib.ExitStack() as stack:
            stack.push(sampler.__exit__)
            yield
            self._reason = "; ".join(f"{source}: {why}" for source, why in sampler.reasons.items())
            try:
                self._series = sampler.read()
            except InstrumentError as error:
                self._reason = str(error)

    def look(self) -> None:
        """Count the device's memory now."""
        if self._tenants is not None:
            self._tenants.look()

    def evidence(self) -> LinkEvidence:
        """Return what was counted."""
        tenants: Any = self._tenants
        beside, ours = (tenants.beside_bytes, tenants.ours_bytes) if tenants is not None else (None, None)
        series, reason = self._series, self._reason or "no counters"
        if series is not None and series.source in RATE_SOURCES:
            reason = f"{series.source} gives rates over 20 ms, too coarse for a forward"
        if series is None or series.source in RATE_SOURCES:
            return LinkEvidence(reason=reason, beside_bytes=beside, ours_bytes=ours)
        series = series if self._most_carried is None else series.over(self._most_carried)
        return LinkEvidence(
            payload_between=partial(payload_of, series),
            most_between=partial(most_payload_of, series),
            enclose=series.enclose,
            beside_bytes=beside,
            ours_bytes=ours,
        )


def payload_of(series: CounterSeries, start_s: float, end_s: float) -> float | None:
    """Return the bytes that the device read in a span, if it sent but requests; None if readings of it were lost."""
    received = series.bytes_between(start_s, end_s, "rx")
    sent = series.bytes_between(start_s, end_s, "tx")
    return None if received is None or sent is None else max(0.0, received - ANSWER_BYTES / REQUEST_BYTES * sent)


def most_payload_of(series: CounterSeries, start_s: float, end_s: float) -> float | None:
    """Return the most that it can have read in a span, whatever else was sent."""
    received = series.bytes_between(start_s, end_s, "rx")
    return None if received is None else received / _COPY_WIRE_PER_PAYLOAD
