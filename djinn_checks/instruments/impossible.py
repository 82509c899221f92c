"""What no link and no live counter can show: signs in a series of readings that its ruler is broken.

Why this is valid. Both bounds take the readings' clocks at their worst. What passed between two readings had at
most the time from before the first query to after the second one, so its bytes over that time are a rate that
the link really had, or nothing of the kind was carried. A hole does not matter: what is counted across one is at
most what passed. And each query moves some bytes both ways itself (14 kB in and 17 kB out on an H200), so of
two counters that are read, one that stands still while the other goes on has stopped counting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from djinn_checks.instruments.counters import CounterSeries, Floats, Integers

_WIDE_S = 0.02
"""Beside neighbouring readings, these are held against each other: the time of the queries hardly counts then."""
_STILL = 0.01
"""So many readings with the values of the one before: the counters are renewed less often than they are read."""
DIRECTIONS = ("rx", "tx")


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one counter did between two readings."""

    direction: str
    """rx (host to device) or tx."""
    at_s: float
    """The first reading's middle."""
    nbytes: int
    longest_s: float
    """The most time that the clocks allow for it."""

    @property
    def bytes_per_s(self) -> float:
        """The rate that the link had at the least."""
        return self.nbytes / self.longest_s


@dataclass(frozen=True, kw_only=True)
class Standstill:
    """One counter stands still while the other goes on."""

    direction: str
    seconds: float
    other_bytes: int
    """What the other one counted meanwhile."""


def find_fastest_steps(series: CounterSeries, start_s: float, end_s: float) -> list[Step]:
    """Return the fastest steps of each counter from start to end, between neighbours and over 20 ms.

    Counters that are renewed less often than they are read stand still between: a step begins where they last moved.
    """
    inside, before_s = _readings(series, start_s, end_s), _last_moved(series)
    steps = []
    for direction in DIRECTIONS:
        sums = _sums(series, direction)[inside]
        after, t_s = series.raw.after_s[inside], series.t_s[inside]
        before = before_s[inside]
        first = np.arange(len(t_s))
        pairs = [(first, np.searchsorted(t_s, t_s + _WIDE_S))]
        if series.wraps:  # a source of rates gives means over a time of its own: neighbours share bytes
            pairs.append((first, first + 1))
        for low, high in pairs:
            low, high = low[high < len(t_s)], high[high < len(t_s)]
            took = after[high] - before[low]
            low, high, took = low[took > 0], high[took > 0], took[took > 0]
            if not len(took):
                continue
            moved = sums[high] - sums[low]
            top = int(np.argmax(moved / took))
            steps.append(
                Step(
                    direction=direction,
                    at_s=float(t_s[low[top]]),
                    nbytes=int(moved[top]),
                    longest_s=float(took[top]),
                )
            )
    return steps


def _last_moved(series: CounterSeries) -> Floats:
    """Return of each reading since when its two values may be as they are, by the clock before a query.

    Its own, if the counters are live. Where they are renewed less often than they are read, as equal neighbours show,
    the last reading that had other values.
    """
    before, numbers = series.raw.before_s, np.arange(len(series.t_s))
    if len(numbers) < 2:
        return before
    moved = np.concatenate([[True], (np.diff(series.rx_bytes) != 0) | (np.diff(series.tx_bytes) != 0)])
    if moved.mean() > 1 - _STILL:
        return before
    since = np.maximum.accumulate(np.where(moved, numbers, 0))
    return np.asarray(before[np.maximum(since - 1, 0)], dtype=np.float64)


def find_standstill(series: CounterSeries, start_s: float, end_s: float) -> Standstill | None:
    """Return the longest time from start to end that one counter stood still and the other did not.

    None if neither did, and for a source of rates, which may well be 0. Both at once is a hole of the series.
    """
    if not series.wraps:
        return None
    inside = _readings(series, start_s, end_s)
    t_s = series.t_s[inside]
    found: list[Standstill] = []
    for direction, other in (DIRECTIONS, DIRECTIONS[::-1]):
        sums, others = _sums(series, direction)[inside], _sums(series, other)[inside]
        moved = np.flatnonzero(np.diff(sums) != 0)
        firsts = np.concatenate([[0], moved + 1]).astype(np.int64)
        lasts = np.concatenate([moved, [len(t_s) - 1]]).astype(np.int64)
        for first, last in zip(firsts, lasts, strict=True):
            went_on = int(others[last] - others[first]) if last > first else 0
            if went_on:
                seconds = float(t_s[last] - t_s[first])
                found.append(Standstill(direction=direction, seconds=seconds, other_bytes=went_on))
    return max(found, key=lambda still: still.seconds, default=None)


def _readings(series: CounterSeries, start_s: float, end_s: float) -> slice:
    """Return the readings from the last one before start to the first one after end."""
    first = int(np.searchsorted(series.t_s, start_s, side="right")) - 1
    return slice(max(0, first), int(np.searchsorted(series.t_s, end_s)) + 1)


def _sums(series: CounterSeries, direction: str) -> Integers:
    return series.rx_bytes if direction == "rx" else series.tx_bytes
