"""What copies of known size say of a link's counters, counted here or recorded elsewhere.

How many bytes the counters see for one of payload, whether the law of reads (`payload.py`) holds on this machine, and
what one reading of the counters moves itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.counters import CounterSeries
from djinn_checks.instruments.payload import ANSWER_BYTES, LAW_TOLERANCE, REQUEST_BYTES, PayloadCounter, RulerWeight

IDLE_S = 0.25
"""Rest before the known copies, in which only the readings move bytes."""
SETTLE_S = 0.03
"""Time left before and after a known copy, so that a reading of the counters lies on either side."""
TRIES = 3
"""Known copies are made again where a hole lies in the readings: whoever pins memory meanwhile keeps them waiting."""
LATE_S = 2.0
"""How long a reading behind a copy is waited for."""
NO_READING = "calibration: the counters have no reading for the time of the known copy"
_ENOUGH_READINGS = 20
_IDLE_SHARE = 0.01
"""Of a copy's rate: less was received before it, so the link was at rest and only the readings moved bytes."""
Span = tuple[float, float]
"""From and to, CLOCK_MONOTONIC."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What known copies, host to device, say of the counters: their ratio, and whether the law of reads holds."""

    wire_per_payload: float
    """Received on the wire for each byte of payload."""
    idle_bytes_per_s: float
    """What the counters see with nothing going on, readings included."""
    residual: float | None
    """|counted / known - 1| of a second known copy, counted with the first one's ratio."""
    payload_bytes: int
    law_error: float | None = None
    """The most that a known copy was off by the law of reads (`payload.py`), as a share; None if it was not tried."""
    ruler_rx_bytes: float | None = None
    """What one reading of the counters moves itself; None if it could not be measured."""
    ruler_tx_bytes: float | None = None
    sent_of_received: float | None = None
    """TX / RX of the known copies; None if it was not counted."""

    def __post_init__(self) -> None:
        """Refuse a ratio that nothing can be divided by.

        Raises:
            InstrumentError: it is not a finite number above 0.
        """
        if not 0 < self.wire_per_payload < math.inf:
            raise InstrumentError(
                "calibration: expected more than 0 bytes on the wire for each of payload, got "
                f"{self.wire_per_payload}; calibrate again"
            )

    @property
    def ruler(self) -> RulerWeight | None:
        """The weight of one reading."""
        if self.ruler_rx_bytes is None or self.ruler_tx_bytes is None:
            return None
        return RulerWeight(rx_bytes=self.ruler_rx_bytes, tx_bytes=self.ruler_tx_bytes)

    def counter(self, series: CounterSeries) -> PayloadCounter:
        """Return what counts payload in a series of this link: by the law where known copies prove it."""
        reason = ""
        if not series.wraps:
            reason = "this source of counters gives rates, whose two directions are not of one instant"
        elif self.law_error is None:
            reason = "the law of reads was not tried on a known copy"
        elif self.law_error > LAW_TOLERANCE:
            reason = f"known copies are counted {self.law_error:.2%} off by the law of reads on this machine"
        return PayloadCounter(
            wire_per_payload=self.wire_per_payload,
            by_law=not reason,
            reason=reason,
            ruler=self.ruler,
            sent_of_copies=self.sent_of_received,
        )


def is_counted(series: CounterSeries, idle: Span, copies: Sequence[Span]) -> bool:
    """Return whether the counters were read all the time in which a calibration rested and copied."""
    return all(series.bytes_between(*span) is not None for span in (idle, *copies))


def calibrate_by_spans(series: CounterSeries, idle: Span, copies: Sequence[Span], payload_bytes: int) -> Calibration:
    """Calibrate with a time in which nothing ran, and with known copies: the first gives the ratio.

    Args:
        copies: when each copy ran, quiet margins included; each moved `payload_bytes`.

    Raises:
        InstrumentError: the counters have no evidence for one of these times, or saw no copy.
    """
    idle_bytes = series.bytes_between(*idle)
    if idle_bytes is None or not is_counted(series, idle, copies):
        raise InstrumentError(NO_READING)
    idle_rate = idle_bytes / (idle[1] - idle[0])
    ruler = weigh_ruler(series, *idle)
    counts = [_count_copy(series, span, ruler, idle_rate) for span in copies]
    ratios = [rx / payload_bytes for rx, _ in counts]
    if ratios[0] <= 0:
        raise InstrumentError(f"calibration: {payload_bytes:,} bytes were copied and the counters saw none of them")
    laws = [(rx - ANSWER_BYTES / REQUEST_BYTES * tx) / payload_bytes for rx, tx in counts]
    return Calibration(
        wire_per_payload=ratios[0],
        idle_bytes_per_s=idle_rate,
        residual=abs(ratios[1] / ratios[0] - 1) if len(ratios) > 1 else None,
        payload_bytes=payload_bytes,
        law_error=max(abs(share - 1) for share in laws) if series.wraps else None,
        ruler_rx_bytes=ruler.rx_bytes if ruler else None,
        ruler_tx_bytes=ruler.tx_bytes if ruler else None,
        sent_of_received=counts[0][1] / counts[0][0],
    )


def calibrate_from_trace(series: CounterSeries, start_s: float, end_s: float, payload_bytes: int) -> Calibration:
    """Calibrate with a recorded copy of known size, and with the readings before it if there are enough.

    Raises:
        InstrumentError: the trace has no evidence for that time, or the copy's size or time is impossible.
    """
    if payload_bytes <= 0:
        raise InstrumentError(
            f"calibration: expected a known copy of at least a byte, got {payload_bytes:,}; give the bytes it moved"
        )
    if not series.bytes_between(start_s, end_s):
        raise InstrumentError("calibration: the trace has no readings for the time of the known copy")
    idle = (float(series.t_s[0]), start_s - SETTLE_S)
    quiet = idle[1] - idle[0] >= IDLE_S / 2 and _is_idle(series, idle, payload_bytes / (end_s - start_s))
    ruler = weigh_ruler(series, *idle) if quiet else None
    rx, tx = _count_copy(series, (start_s, end_s), ruler, 0.0)
    return Calibration(
        wire_per_payload=rx / payload_bytes,
        idle_bytes_per_s=0.0,
        residual=None,
        payload_bytes=payload_bytes,
        law_error=abs((rx - ANSWER_BYTES / REQUEST_BYTES * tx) / payload_bytes - 1) if series.wraps else None,
        ruler_rx_bytes=ruler.rx_bytes if ruler else None,
        ruler_tx_bytes=ruler.tx_bytes if ruler else None,
        sent_of_received=tx / rx if rx > 0 else None,
    )


def weigh_ruler(series: CounterSeries, start_s: float, end_s: float) -> RulerWeight | None:
    """Return what one reading moves, from a time in which nothing else should: the median step of each counter.

    None with fewer than 20 readings, and for a source of rates: what others moved meanwhile is then all that is seen.
    """
    inside = (series.t_s >= start_s) & (series.t_s <= end_s)
    if not series.wraps or int(inside.sum()) < _ENOUGH_READINGS:
        return None
    rx, tx = (float(np.median(np.diff(sums[inside]))) for sums in (series.rx_bytes, series.tx_bytes))
    return RulerWeight(rx_bytes=rx, tx_bytes=tx)


def _is_idle(series: CounterSeries, span: Span, busy_bytes_per_s: float) -> bool:
    passed = series.bytes_between(*span)
    return passed is not None and passed / (span[1] - span[0]) < _IDLE_SHARE * busy_bytes_per_s


def _count_copy(
    series: CounterSeries, span: Span, ruler: RulerWeight | None, idle_bytes_per_s: float
) -> tuple[float, float]:
    """Return what a copy put on the wire, received and sent, less the readings' weight or else the idle rate."""
    rx, tx = (float(series.bytes_between(*span, direction) or 0.0) for direction in ("rx", "tx"))
    if ruler is None:
        return rx - idle_bytes_per_s * (span[1] - span[0]), tx
    readings = series.readings_between(*span)
    return rx - ruler.rx_bytes * readings, tx - ruler.tx_bytes * readings
