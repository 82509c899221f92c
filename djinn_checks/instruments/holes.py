"""What counters still tell where readings are missing: the times that are known, and the least that passed.

Others on a machine keep readings waiting: a process that pins 8 GB does so for 170 ms on an H200. What 32-bit counters
gain over such a hole is known but for whole wraps, so no fewer bytes passed than they show.
"""

from __future__ import annotations

import numpy as np

from djinn_checks.instruments.counters import CounterSeries, check_span
from djinn_checks.instruments.payload import Bounds, PayloadCounter


def known_spans(series: CounterSeries, start_s: float, end_s: float) -> list[tuple[float, float]]:
    """Return the spans in [start_s, end_s], in seconds on CLOCK_MONOTONIC, that no hole touches, in their order.

    Raises:
        InstrumentError: as `check_span`.
    """
    check_span(start_s, end_s, series.source)
    if len(series.t_s) < 2:
        return []
    spans, since = [], max(start_s, float(series.t_s[0]))
    until = min(end_s, float(series.t_s[-1]))
    for hole_start, hole_end in series.holes:
        spans.append((since, min(hole_start, until)))
        since = max(since, hole_end)
    return [(first, last) for first, last in [*spans, (since, until)] if first < last]


def least_between(series: CounterSeries, start_s: float, end_s: float, direction: str = "rx") -> float | None:
    """Return the fewest wire bytes that can have passed in [start_s, end_s]; None if the series does not reach so far.

    Over a hole inside it is what the counters gained, over one that an end of the time lies in it is nothing.

    Raises:
        InstrumentError: as `check_span`.
    """
    check_span(start_s, end_s, series.source)
    if len(series.t_s) < 2 or start_s < series.t_s[0] or end_s > series.t_s[-1]:
        return None
    since = max([start_s, *(last for first, last in series.holes if first < start_s < last)])
    until = min([end_s, *(first for first, last in series.holes if first < end_s < last)])
    passed = series.rx_bytes if direction == "rx" else series.tx_bytes
    low, high = np.interp([since, max(since, until)], series.t_s, passed)
    return float(high - low)


def rate_outside_holes(series: CounterSeries, start_s: float, end_s: float, direction: str = "rx") -> float | None:
    """Return wire bytes per second in what is known of [start_s, end_s]; None if that is less than half of it.

    Raises:
        InstrumentError: as `check_span`.
    """
    spans = known_spans(series, start_s, end_s)
    seconds = sum(last - first for first, last in spans)
    if seconds < (end_s - start_s) / 2:
        return None
    return sum(series.bytes_between(first, last, direction) or 0.0 for first, last in spans) / seconds


def bound_with_holes(
    counter: PayloadCounter, series: CounterSeries, start_s: float, end_s: float, most_bytes_per_s: float
) -> Bounds | None:
    """Return between what the payload lies that was received in [start_s, end_s]: in a hole anything up to the most.

    None if the series does not reach so far, or less than half of the time is known.

    Args:
        most_bytes_per_s: of payload, that the link carries.

    Raises:
        InstrumentError: as `check_span`.
    """
    whole = counter.bounds(series, start_s, end_s)
    if whole is not None or len(series.t_s) < 2 or start_s < series.t_s[0] or end_s > series.t_s[-1]:
        return whole
    spans = known_spans(series, start_s, end_s)
    unknown_s = (end_s - start_s) - sum(last - first for first, last in spans)
    known = [counter.bounds(series, first, last) for first, last in spans]
    if unknown_s > (end_s - start_s) / 2:
        return None
    least = sum(bounds.least for bounds in known if bounds)
    return Bounds(least=least, most=sum(bounds.most for bounds in known if bounds) + unknown_s * most_bytes_per_s)
