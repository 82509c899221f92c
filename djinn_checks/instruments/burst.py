"""How long so many bytes took on the link: the shortest time that holds them, by counters that are read now and then.

A move is a burst among little else, so the shortest time in which that many bytes passed is the move's own, wherever it
lies and whatever the link carries at rest. Between two readings nothing is known but that the link carries no more than
its top rate. So there are two answers: the least time that agrees with the readings, and the greatest. For a burst at
the top rate they are the same; else they differ by less than the gaps at its ends.

The least may accuse nobody wrongly: a counter was read at some time within its query, so each query counts as if at the
end that makes the time shorter. The greatest takes the middles: counters of an H200 that are read once per millisecond,
while copies run at a steady rate, lie within 0.3 ms of a straight line, whichever instant of the query is taken. For
20 ms of such copies at 94 % of the top rate the greatest time is right within 1 %, and the least is short by 3 to 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from djinn_checks.instruments.counters import CounterSeries, Floats, Integers


@dataclass(frozen=True, kw_only=True)
class BurstTime:
    """Seconds that a number of bytes took."""

    least_s: float
    greatest_s: float


def time_burst(
    series: CounterSeries, nbytes: float, start_s: float, end_s: float, *, direction: str, top_bytes_per_s: float
) -> BurstTime | None:
    """Return the shortest time between two instants in which so many bytes passed.

    Args:
        nbytes: on the wire, as the series has them.
        top_bytes_per_s: the most that the link carries, on the wire.

    Returns:
        None if a hole or the series' end touches the time, or if fewer bytes passed.
    """
    if series.bytes_between(start_s, end_s, direction) is None:
        return None
    first, last = (int(np.searchsorted(series.t_s, instant)) for instant in (start_s, end_s))
    inside = slice(max(0, first - 1), last + 1)
    passed = (series.rx_bytes if direction == "rx" else series.tx_bytes)[inside]
    raw = series.raw
    least = _least_s(raw.before_s[inside], raw.after_s[inside], passed, nbytes, top_bytes_per_s)
    greatest = _greatest_s(series.t_s[inside], passed, nbytes, top_bytes_per_s)
    if least is None or greatest is None:
        return None
    return BurstTime(least_s=min(least, greatest), greatest_s=greatest)


def _least_s(before_s: Floats, after_s: Floats, passed: Integers, nbytes: float, top: float) -> float | None:
    """The bytes begin in the gap before one reading and end in the gap behind another, at the top rate in both."""
    first = np.arange(1, len(passed))
    behind = np.searchsorted(passed, passed[first - 1] + nbytes)  # the first reading that they may have passed by
    first, behind = first[behind < len(passed)], behind[behind < len(passed)]
    if not len(first):
        return None
    last = np.maximum(behind - 1, first)
    between = np.maximum(0.0, before_s[last] - after_s[first])
    in_gaps = nbytes - (passed[last] - passed[first])
    return float(max(np.where(behind > first, between + in_gaps / top, 0.0).min(), nbytes / top))


def _greatest_s(t_s: Floats, passed: Integers, nbytes: float, top: float) -> float | None:
    """Between two readings they have passed, and what passed beyond them took its time, too."""
    first = np.arange(len(passed))
    last = np.searchsorted(passed, passed[first] + nbytes)
    first, last = first[last < len(passed)], last[last < len(passed)]
    if not len(first):
        return None
    beyond = passed[last] - passed[first] - nbytes
    return float(max((t_s[last] - t_s[first] - beyond / top).min(), nbytes / top))
