"""PCIe traffic as the GPU counts it: a series of cumulative wire bytes, with its holes.

Why this is valid. The counters are the GPU's, read by a process of its own. They wrap at 2^32, so
the difference of two readings is known modulo 2^32 only. It is exact if less than one wrap went by, which
the link's top rate bounds: a gap in which more than half a wrap could have passed is a hole, and what
passed in it is unknown, never zero. (Half, since a full wrap and none look the same; 0.9 where the rate was measured.)
Counters that stand still are no evidence either: each query itself moves some bytes over the link, so two
readings a while apart that are equal mean a counter that does not count, not an idle link.

Bytes between two instants are interpolated linearly between readings; with readings 1 ms apart the error
at each end is below one reading's bytes, a few parts in a thousand of a 20 ms window.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.blur import find_blurred, find_unclear, find_unread
from djinn_checks.instruments.link_health import LinkHealth, parse_health
from djinn_checks.instruments.sampler import RECORD, health_path

WRAP = 2**32
TOP_RATE_BYTES_PER_S = 128e9
"""Raw rate of PCIe 6.0 x16, 16 lanes of 64 GT/s (PCI-SIG), a byte for eight transfers: until a link was measured."""
_MOST_OF_WRAP = 0.9  # on a link whose top rate was measured
RATE_SOURCES = ("gpm", "throughput")
"""Sources that give rates: their readings are running sums of bytes, and do not wrap."""
FROZEN_S = 0.05
"""Neither counter moves for so long: it does not count. At 1 kHz that is 50 queries without a byte."""
_START_S = 20.0

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Readings:
    """What was read, as it was read: arrays of one length."""

    before_s: Floats
    """CLOCK_MONOTONIC before each query; `after_s` after it."""
    after_s: Floats
    rx: Integers
    """Counters modulo 2^32, or running sums of bytes from a source of rates."""
    tx: Integers


@dataclass(frozen=True)
class CounterSeries:
    """What was counted, in time. Seconds on CLOCK_MONOTONIC; bytes on the wire since the first reading."""

    t_s: Floats
    rx_bytes: Integers
    """Host to device. Across a hole the sum goes on as if nothing had passed; `bytes_between` knows."""
    tx_bytes: Integers
    holes: tuple[tuple[float, float], ...]
    """(start_s, end_s) of lost evidence: more than half a wrap could have passed, or the counters stood still."""
    source: str
    raw: Readings
    query_s: float
    """Median time of one query."""
    wraps: bool = True
    """Read from counters modulo 2^32; False: from a source of rates."""

    def bytes_between(self, start_s: float, end_s: float, direction: str = "rx") -> float | None:
        """Return the wire bytes in [start_s, end_s], or None if a hole or the series' end touches it.

        Raises:
            InstrumentError: as `check_span`.
        """
        check_span(start_s, end_s, self.source)
        if len(self.t_s) < 2 or start_s < self.t_s[0] or end_s > self.t_s[-1] or self._lost(start_s, end_s):
            return None
        low, high = np.interp([start_s, end_s], self.t_s, self._sum(direction))
        return float(high - low)

    def enclose(self, start_s: float, end_s: float) -> tuple[float, float] | None:
        """Return the shortest span between readings in which all of [start_s, end_s] certainly lies.

        A reading is of some instant within its query, so one that was asked for before the start and answered after it
        may have counted some of the span already. None if readings do not reach so far.

        Raises:
            InstrumentError: as `check_span`.
        """
        check_span(start_s, end_s, self.source)
        first = int(np.searchsorted(self.raw.after_s, start_s, side="right")) - 1
        last = int(np.searchsorted(self.raw.before_s, end_s))
        if first < 0 or last >= len(self.t_s):
            return None
        return float(self.t_s[first]), float(self.t_s[last])

    def windows(self, start_s: float, end_s: float, window_s: float, direction: str = "rx") -> tuple[Floats, Floats]:
        """Return starts and bytes of the whole windows within [start_s, end_s]; NaN is lost evidence.

        That is also a window in which nothing was read, and one beside a query that took long (`blur`).

        Raises:
            InstrumentError: as `check_span`, or the windows have no length.
        """
        check_span(start_s, end_s, self.source)
        if not 0 < window_s < math.inf:
            raise InstrumentError(f"{self.source}: expected windows longer than 0 s, got {window_s} s; check window_ms")
        count = int((end_s - start_s) / window_s + 1e-9)
        edges = np.asarray(start_s + window_s * np.arange(count + 1), dtype=np.float64)
        if len(self.t_s) < 2:
            return edges[:-1], np.full(count, np.nan)
        sums = np.interp(edges, self.t_s, self._sum(direction), left=np.nan, right=np.nan)
        counted = np.asarray(np.diff(sums), dtype=np.float64)
        for hole_start, hole_end in self.holes:
            counted[(edges[:-1] < hole_end) & (edges[1:] > hole_start)] = np.nan
        if self.wraps:  # of a source of rates each query covers a time of its own
            counted[find_blurred(self.t_s, self.raw.after_s - self.raw.before_s, edges, window_s)] = np.nan
            counted[find_unread(self.t_s, edges, window_s)] = np.nan
        return edges[:-1], counted

    def unclear_share(self, start_s: float, end_s: float, window_s: float) -> Floats:
        """Return how much of each whole window within [start_s, end_s] may belong to its neighbours, as shares of it.

        0 for a source of rates, and beside queries as short as usual.

        Raises:
            InstrumentError: as `windows`.
        """
        starts, _ = self.windows(start_s, end_s, window_s)
        if not self.wraps or not len(starts) or len(self.t_s) < 2:
            return np.zeros(len(starts))
        edges = np.append(starts, starts[-1] + window_s)
        return find_unclear(self.t_s, self.raw.after_s - self.raw.before_s, edges) / window_s

    def readings_between(self, start_s: float, end_s: float) -> float:
        """Return how many readings were taken in [start_s, end_s], the ones at its ends in part."""
        low, high = np.interp([start_s, end_s], self.t_s, np.arange(len(self.t_s)))
        return float(high - low)

    def over(self, top_rate_bytes_per_s: float) -> CounterSeries:
        """Return the same readings over a link that carries so many wire bytes/s at most: fewer gaps are holes.

        Rate and time, by the readings' clocks, are the most there can be: less than a wrap that passed is known.

        Raises:
            InstrumentError: it is not a rate above 0.
        """
        if not 0 < top_rate_bytes_per_s < math.inf:
            raise InstrumentError(f"top rate: expected more than 0 bytes/s, got {top_rate_bytes_per_s}; measure it")
        raw = self.raw
        return build_series(
            raw.before_s, raw.after_s, raw.rx, raw.tx, source=self.source, wraps=self.wraps,
            top_rate_bytes_per_s=top_rate_bytes_per_s, most_of_wrap=_MOST_OF_WRAP,
        )  # fmt: skip

    def longest_gap_s(self, start_s: float, end_s: float) -> float | None:
        """Return the longest time between two readings in [start_s, end_s], None with less than two.

        Raises:
            InstrumentError: as `check_span`.
        """
        check_span(start_s, end_s, self.source)
        inside = self.t_s[(self.t_s >= start_s) & (self.t_s <= end_s)]
        return float(np.diff(inside).max()) if len(inside) > 1 else None

    def typical_gap_s(self, start_s: float, end_s: float) -> float | None:
        """Return the median time between two readings, of all or in [start_s, end_s], whichever is longer.

        What happens within it is seen as a mean. None with less than two readings there.

        Raises:
            InstrumentError: as `check_span`.
        """
        check_span(start_s, end_s, self.source)
        inside = self.t_s[(self.t_s >= start_s) & (self.t_s <= end_s)]
        if len(inside) < 2:
            return None
        return max(float(np.median(np.diff(times))) for times in (self.t_s, inside))

    def _lost(self, start_s: float, end_s: float) -> bool:
        return any(start_s < hole_end and end_s > hole_start for hole_start, hole_end in self.holes)

    def _sum(self, direction: str) -> Integers:
        return self.rx_bytes if direction == "rx" else self.tx_bytes


def check_span(start_s: float, end_s: float, what: str) -> None:
    """Refuse a span of time in which nothing can be counted.

    Raises:
        InstrumentError: it ends where it starts or before, or one of its ends is no finite number.
    """
    if not (math.isfinite(start_s) and math.isfinite(end_s) and start_s < end_s):
        raise InstrumentError(
            f"{what}: expected a span that ends after it starts, in finite seconds, got {start_s} to {end_s}; "
            "check which clock each end was taken from, and their order"
        )


def build_series(
    t_before_s: Floats,
    t_after_s: Floats,
    rx_raw: Integers,
    tx_raw: Integers,
    *,
    source: str,
    wraps: bool = True,
    top_rate_bytes_per_s: float = TOP_RATE_BYTES_PER_S,
    most_of_wrap: float = 0.5,
) -> CounterSeries:
    """Unwrap raw readings into a series.

    Args:
        t_before_s: float64 [n], clock before each query; `t_after_s` after it.
        rx_raw: int64 [n], counters modulo 2^32 if `wraps`, else running sums.
        top_rate_bytes_per_s: what the link can carry at most, on the wire, in one direction.
        most_of_wrap: a gap in which a larger share of 2^32 could have passed is a hole.

    Raises:
        InstrumentError: these cannot be readings: times that are no numbers or run backward, values that such
            counters do not have.
    """
    _check_times(t_before_s, t_after_s, source)
    for name, raw in (("received", rx_raw), ("sent", tx_raw)):
        _check_values(raw, len(t_before_s), wraps, f"{source}: bytes {name}")
    t_s = (t_before_s + t_after_s) / 2
    holes: list[tuple[float, float]] = []
    if wraps:
        # A reading was taken somewhere between its two clocks, so two readings may lie this far apart.
        apart = t_after_s[1:] - t_before_s[:-1]
        missed = np.flatnonzero(apart > most_of_wrap * WRAP / top_rate_bytes_per_s)
        holes = [(float(t_s[i]), float(t_s[i + 1])) for i in missed] + _frozen(t_s, rx_raw, tx_raw)
    return CounterSeries(
        t_s=t_s,
        rx_bytes=_cumulate(rx_raw, wraps),
        tx_bytes=_cumulate(tx_raw, wraps),
        holes=tuple(sorted(holes)),
        source=source,
        raw=Readings(before_s=t_before_s, after_s=t_after_s, rx=rx_raw, tx=tx_raw),
        query_s=float(np.median(t_after_s - t_before_s)) if len(t_s) else 0.0,
        wraps=wraps,
    )


def _check_times(before_s: Floats, after_s: Floats, source: str) -> None:
    if len(before_s) != len(after_s):
        raise InstrumentError(
            f"{source}: expected two clocks for each reading, got {len(before_s):,} before and {len(after_s):,} after "
            "the query; read the columns again"
        )
    wrong = ~(np.isfinite(before_s) & np.isfinite(after_s) & (after_s >= before_s))
    wrong[1:] |= (np.diff(before_s) < 0) | (np.diff(after_s) < 0)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise InstrumentError(
            f"{source}: expected times that are finite and go forward, got {before_s[at]} to {after_s[at]} s in "
            f"reading {at + 1:,}; order the readings by time, and take both clocks from CLOCK_MONOTONIC"
        )


def _check_values(raw: Integers, count: int, wraps: bool, what: str) -> None:
    if len(raw) != count:
        raise InstrumentError(f"{what}: expected {count:,} values, as many as times, got {len(raw):,}; read them again")
    wrong = (raw < 0) | (raw >= WRAP) if wraps else raw < 0
    if wraps and wrong.any():
        at = int(np.argmax(wrong))
        raise InstrumentError(
            f"{what}: expected 32-bit values, 0 to {WRAP - 1:,}, got {raw[at]:,} in reading {at + 1:,}; a counter of "
            "another width wraps elsewhere, and its readings have to be taken modulo 2^32 first"
        )
    if not wraps:
        wrong[1:] |= raw[1:] < raw[:-1]
    if wrong.any():
        at = int(np.argmax(wrong))
        raise InstrumentError(
            f"{what}: expected a running sum, from 0 and never back, got {raw[at]:,} in reading {at + 1:,}; "
            "was the source started anew?"
        )


def _frozen(t_s: Floats, rx_raw: Integers, tx_raw: Integers) -> list[tuple[float, float]]:
    """Return the spans of at least FROZEN_S in which neither counter moved."""
    moved = np.flatnonzero((np.diff(rx_raw) != 0) | (np.diff(tx_raw) != 0))
    if len(t_s) < 2:
        return []
    starts = t_s[np.concatenate([[0], moved + 1])]
    ends = t_s[np.concatenate([moved, [len(t_s) - 1]])]  # the last reading before the next change
    long = np.flatnonzero(ends - starts >= FROZEN_S)
    return [(float(starts[i]), float(ends[i])) for i in long]


def _cumulate(raw: Integers, wraps: bool) -> Integers:
    steps = np.diff(raw.astype(np.int64), prepend=raw[:1].astype(np.int64))
    return np.cumsum(np.mod(steps, WRAP) if wraps else steps, dtype=np.int64)


class CounterSampler:
    """Samples the PCIe counters of one GPU in a process of its own, as a context manager."""

    def __init__(
        self, uuid: str | None = None, *, hz: float = 1000.0, source: str = "auto", health: str = "auto"
    ) -> None:
        """Prepare to sample.

        Args:
            uuid: NVML's name of the GPU (`environment.find_uuid`); None is the first.
            hz: readings per second.
            source: auto (field counters, else GPM, else throughput), one of these, or module:function of
                a fake that gives a function that gives (received, sent).
            health: auto (of the same GPU; nothing beside a fake of counters), or module:function of a fake.
        """
        self._options = ["--hz", str(hz), "--source", source, "--health", health, *(["--uuid", uuid] if uuid else [])]
        self.source: str | None = None
        """What is read; None if there is nothing to read."""
        self.reasons: dict[str, str] = {}
        """Why each source that was tried before could not be read."""

    def __enter__(self) -> Self:
        """Start the process and wait for its first reading; with no source, for its word that there is none.

        Raises:
            InstrumentError: it neither read nor said anything.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="djinn-checks-sampler-")
        self._path = Path(self._folder.name) / "samples"
        command = [sys.executable, "-m", "djinn_checks.instruments.sampler", str(self._path), *self._options]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        try:
            self._wait_for_first_reading()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait_for_first_reading(self) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            header, records = self._read_file()
            if header is not None:
                self.source, self.reasons = header["source"], header["reasons"]
            if header is not None and (self.source is None or len(records)):
                return
            if self._process.poll() is not None:
                said = self._process.stderr.read().decode(errors="replace") if self._process.stderr else ""
                raise InstrumentError(f"counter sampler: ended with code {self._process.returncode}: {said[-500:]}")
            time.sleep(0.01)
        raise InstrumentError(f"counter sampler: no reading within {_START_S:.0f} s")

    def _read_file(self) -> tuple[dict[str, Any] | None, bytes]:
        data = self._path.read_bytes() if self._path.exists() else b""
        head, newline, records = data.partition(b"\n")
        return (json.loads(head) if newline else None), records

    @property
    def alive(self) -> bool:
        """Whether the process is still sampling."""
        return self._process.poll() is None

    def read(self) -> CounterSeries | None:
        """Return everything sampled so far, also after the sampler ended or died; None without a source."""
        if self.source is None:
            return None
        records = self._read_file()[1] if self._path.exists() else self._kept
        whole = np.frombuffer(records[: len(records) // RECORD.size * RECORD.size], dtype=_DTYPE)
        wraps = self.source not in RATE_SOURCES
        columns = (np.ascontiguousarray(whole[name]) for name in _DTYPE.names or ())
        before, after, rx, tx = columns
        return build_series(before, after, rx, tx, source=self.source, wraps=wraps)

    def read_health(self) -> LinkHealth | None:
        """Return the link's health, second by second; None without a source of it."""
        found = parse_health(health_path(self._path)) if self._path.exists() else self._kept_health
        return found if found.samples else None

    def __exit__(self, *exc: object) -> None:
        """End the process; what it sampled stays readable."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr:
            self._process.stderr.close()
        self._kept = self._read_file()[1]
        self._kept_health = parse_health(health_path(self._path))
        self._folder.cleanup()


_DTYPE = np.dtype([("before", "<f8"), ("after", "<f8"), ("rx", "<i8"), ("tx", "<i8")])
