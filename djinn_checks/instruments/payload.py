"""Bytes of payload that were read from the host, out of wire bytes that a GPU counts.

Why this is valid. A GPU reads host memory by requests, and a request has no data: it costs 24 bytes of what is sent
(a header of 4 words, sequence number, checksum and framing, as PCIe lays them out). Each answer carries the data and
20 bytes beside them (a header of 3 words, and the same rest). Requests and answers come in pairs, so whatever size
they have, data read = received - 20/24 x sent. No ratio has to be known, which is as well: copies ask for 256 bytes at
a time and pay 7.8 %, kernels that read in place ask for 128 or 32 and pay 15.6 or 62.5 %, and a ratio that copies gave
counts those wrong by 7 % and more. Recorded on an H200 (PCIe 5.0 x16), copies of 64 KiB to 512 MiB and kernels of four
strides were counted right within 0.1 to 0.2 %; below that the commands of the copies count, 2.8 % at 4 KiB.

Its limits. All that is sent must be requests. Data on their way to the host are sent too, and each byte of them would
take 0.9 from what is counted as read; so the law never counts too much. Where more is sent than the smallest requests
can explain, the ratio of known copies is the likelier. Nobody can tell a kernel's small requests from a copy with data
on their way back: `bounds` holds for both. What is to hold has to hold at the lower end, and what does not hold at the
upper end fails. No reader gets more out of a wire than copies with their large requests, which is the upper end.

The readings of the counters themselves move more out than in; their weight is measured on an idle link and taken off.
On a machine where known copies are not counted right by the law (another generation or other counters, whose two values
are not of one instant), their ratio is used, and `reason` says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.counters import CounterSeries, Floats

REQUEST_BYTES = 24
"""Sent for each read of host memory."""
ANSWER_BYTES = 20
"""Received with each answer, beside its data."""
LARGEST_REQUEST_BYTES, SMALLEST_REQUEST_BYTES = 256, 32
"""Data that one request asks for: by copies, and by kernels that use little of what they fetch (H200)."""
LAW_TOLERANCE = 0.001
"""How far known copies may be counted off by the law, where it is used."""
MOST_SENT_OF_RECEIVED = REQUEST_BYTES / (SMALLEST_REQUEST_BYTES + ANSWER_BYTES)
"""Requests for 32 bytes over their answers, 0.4615: more is data on their way to the host."""
_SAME_READER = 0.1
"""How far TX / RX may be from that of known copies, for their ratio to be the reader's own."""
FETCHED_TWICE = 0.05
"""What kernels that read in place may fetch beyond what they use, as a share of it: a line that their caches lose
before all of it was used comes again. cuBLAS at batch 1 fetched 1.34 to 1.36 % more than a 7B has (H200)."""
READ_BY_WAITS = 2.6e9
"""Bytes a second that a GPU reads of host memory, at most, while three streams and more wait for an event at a time:
its host engines go from one blocked channel to the next. 0.1 to 2.54 GB/s on an H200 (driver 580.159, CUDA 13.0), by
requests of 30 to 215 bytes, so the law counts them as payload (`findings/cuda-waiting-streams-read-host-memory.sh`)."""
_EXPLAINED = 1.05 * MOST_SENT_OF_RECEIVED
"""With what readings that are not quite of one instant may add."""


@dataclass(frozen=True, kw_only=True)
class RulerWeight:
    """What one reading of the counters moves itself, in bytes on the wire."""

    rx_bytes: float
    tx_bytes: float


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Between what the payload read lies, whatever else was sent meanwhile."""

    least: float
    most: float


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Who reads host memory, by the size of its requests."""

    says: str
    """For a reader of reports."""
    request_bytes: float | None
    """Mean data that a request asked for; None if nothing was read, or more was sent than requests."""
    sent_of_received: float | None
    """TX / RX, less the readings' own weight; None if nothing was received."""
    in_place: bool = False
    """Kernels read host memory where it lies."""


@dataclass(frozen=True, kw_only=True)
class PayloadCounter:
    """Turns a series of wire bytes into payload that was received.

    >>> counter = calibration.counter(series)
    >>> counter.between(series, start_s, end_s)
    """

    wire_per_payload: float
    """Received on the wire for each byte of known copies."""
    by_law: bool
    """Whether the law is used; False: the ratio of known copies."""
    reason: str = ""
    """Why the law is not used."""
    ruler: RulerWeight | None = None
    """Taken off for each reading; None if it is not known."""
    sent_of_copies: float | None = None
    """TX / RX of known copies; None if it is not known."""

    def __post_init__(self) -> None:
        """Refuse a ratio that nothing can be divided by.

        Raises:
            InstrumentError: it is not a finite number above 0.
        """
        if not 0 < self.wire_per_payload < math.inf:
            raise InstrumentError(
                f"payload: expected more than 0 bytes on the wire for each of payload, got {self.wire_per_payload}; "
                "calibrate again"
            )

    def between(self, series: CounterSeries, start_s: float, end_s: float) -> float | None:
        """Return the payload received from start to end, in bytes, as is likely; None if evidence is lost.

        Raises:
            InstrumentError: as `check_span`.
        """
        wire = self._wire(series, start_s, end_s)
        return None if wire is None else float(self._payload(np.array([wire[0]]), np.array([wire[1]]))[0])

    def windows(self, series: CounterSeries, start_s: float, end_s: float, window_s: float) -> tuple[Floats, Floats]:
        """Return starts and payload bytes, as are likely, of the whole windows from start to end; NaN: lost evidence.

        Raises:
            InstrumentError: as `CounterSeries.windows`.
        """
        starts, rx, tx = self._wire_of_windows(series, start_s, end_s, window_s)
        return starts, self._payload(rx, tx)

    def bound_windows(
        self, series: CounterSeries, start_s: float, end_s: float, window_s: float
    ) -> tuple[Floats, Floats]:
        """Return the least and the most payload bytes of the same windows, whatever else was sent meanwhile.

        Raises:
            InstrumentError: as `CounterSeries.windows`.
        """
        _, rx, tx = self._wire_of_windows(series, start_s, end_s, window_s)
        return self._bound(rx, tx)

    def _wire_of_windows(
        self, series: CounterSeries, start_s: float, end_s: float, window_s: float
    ) -> tuple[Floats, Floats, Floats]:
        starts, rx = series.windows(start_s, end_s, window_s)
        _, tx = series.windows(start_s, end_s, window_s, "tx")
        if self.ruler is not None and len(starts) and len(series.t_s):
            edges = np.append(starts, starts[-1] + window_s)
            readings = np.diff(np.interp(edges, series.t_s, np.arange(len(series.t_s))))
            rx, tx = rx - self.ruler.rx_bytes * readings, tx - self.ruler.tx_bytes * readings
        return starts, rx, tx

    def bounds(self, series: CounterSeries, start_s: float, end_s: float) -> Bounds | None:
        """Return between what the payload lies, had data gone to the host meanwhile; None if evidence is lost.

        Raises:
            InstrumentError: as `check_span`.
        """
        wire = self._wire(series, start_s, end_s)
        if wire is None:
            return None
        least, most = self._bound(np.array([wire[0]]), np.array([wire[1]]))
        return Bounds(least=float(least[0]), most=float(most[0]))

    def _bound(self, rx: Floats, tx: Floats) -> tuple[Floats, Floats]:
        """Return the least and the most payload in each of some times; who reads by copies is told by all of them."""
        most = np.maximum(rx / self.wire_per_payload, 0.0)
        fewest = np.maximum(rx * SMALLEST_REQUEST_BYTES / (SMALLEST_REQUEST_BYTES + ANSWER_BYTES), 0.0)
        if self.by_law:
            least = np.maximum(rx - ANSWER_BYTES / REQUEST_BYTES * tx, fewest)
            return least, np.maximum(least, most)
        is_copy = self._is_copy(float(np.nansum(rx)), float(np.nansum(tx)))
        return (most if is_copy else np.minimum(most, fewest)), most

    @property
    def largest_request_bytes(self) -> float:
        """Data that a request of known copies asks for, by the ratio of their wire bytes."""
        beside = self.wire_per_payload - 1
        return ANSWER_BYTES / beside if self.by_law and beside > 0 else LARGEST_REQUEST_BYTES

    def _is_copy(self, rx: float, tx: float) -> bool:
        """Tell whether what was sent is what known copies send; True where that is not known."""
        return self.sent_of_copies is None or abs(tx - self.sent_of_copies * rx) <= _SAME_READER * tx

    def reader(self, series: CounterSeries, start_s: float, end_s: float) -> Reader | None:
        """Return who read host memory from start to end, by TX / RX; None if evidence is lost.

        Raises:
            InstrumentError: as `check_span`.
        """
        wire = self._wire(series, start_s, end_s)
        return None if wire is None else name_reader(*wire, largest_bytes=self.largest_request_bytes)

    def wire_between(self, series: CounterSeries, start_s: float, end_s: float) -> float | None:
        """Return the wire bytes received from start to end, less the readings' own; None if evidence is lost.

        Raises:
            InstrumentError: as `check_span`.
        """
        wire = self._wire(series, start_s, end_s)
        return None if wire is None else wire[0]

    def _wire(self, series: CounterSeries, start_s: float, end_s: float) -> tuple[float, float] | None:
        rx, tx = (series.bytes_between(start_s, end_s, direction) for direction in ("rx", "tx"))
        if rx is None or tx is None:
            return None
        if self.ruler is not None:
            readings = series.readings_between(start_s, end_s)
            rx, tx = rx - self.ruler.rx_bytes * readings, tx - self.ruler.tx_bytes * readings
        return max(0.0, rx), max(0.0, tx)

    def _payload(self, rx: Floats, tx: Floats) -> Floats:
        by_ratio = rx / self.wire_per_payload
        if not self.by_law:
            return np.maximum(by_ratio, 0.0)
        by_law = rx - ANSWER_BYTES / REQUEST_BYTES * tx
        fewest = rx * SMALLEST_REQUEST_BYTES / (SMALLEST_REQUEST_BYTES + ANSWER_BYTES)
        return np.maximum(np.where(tx <= _EXPLAINED * rx, np.maximum(by_law, fewest), by_ratio), 0.0)


def name_reader(rx_bytes: float, tx_bytes: float, *, largest_bytes: float = LARGEST_REQUEST_BYTES) -> Reader:
    """Return who reads host memory, by the wire bytes received and sent.

    A copy of 4 KiB still has 211 bytes of data for each request, one of 64 KiB 252 (H200).

    Args:
        largest_bytes: data that a request of known copies asks for.
    """
    if rx_bytes <= 0:
        return Reader(says="nothing is read", request_bytes=None, sent_of_received=None)
    share = tx_bytes / rx_bytes
    size = REQUEST_BYTES / share - ANSWER_BYTES if tx_bytes > 0 else math.inf
    if size > 1.1 * largest_bytes:
        says = f"reads of more than {largest_bytes:.0f} bytes a request, or requests that were not counted"
    elif size >= 0.75 * largest_bytes:
        says = f"copies: {size:.0f} bytes a request"
    elif 118 <= size <= 138:
        says = f"kernels that read in place: {size:.0f} bytes a request"
    elif share <= _EXPLAINED and size <= 38:
        says = f"kernels that read a few words in place: {size:.0f} bytes a request"
    elif size > 38:
        says = f"a mixture of readers, or data sent to the host: {size:.0f} bytes a request in the mean"
    else:
        says = "more is sent than requests: data go to the host"
    known = math.isfinite(size) and share <= _EXPLAINED
    in_place = known and size < 0.6 * largest_bytes
    return Reader(says=says, request_bytes=size if known else None, sent_of_received=share, in_place=in_place)
