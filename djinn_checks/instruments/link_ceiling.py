"""How fast the link is at best: large copies, after the method of NVIDIA's nvbandwidth.

Warm up, time a few copies back to back with events on the device (on a CPU with the clock around them), take
the fastest of several such rounds, and check on the device that the bytes arrived. The raw samples are kept.
nvbandwidth takes the median; a ceiling is what the link can do, and whoever else is on the machine can only
slow a copy down: on a shared one the medians before and after a run were up to 29 % apart.
What PCIe can carry depends on the machine and the day, so every run measures its own ceiling, with buffers
that it allocates itself: the checked system has no part in it.

On a machine without a GPU the link is a copy between two buffers in host memory, and says so (`kind`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.counters import CounterSampler, CounterSeries
from djinn_checks.instruments.payload import ANSWER_BYTES, LAW_TOLERANCE, REQUEST_BYTES, PayloadCounter, RulerWeight
from djinn_checks.units import MIB

_IDLE_S = 0.25
_COPIES_A_ROUND = 4
"""Back to back, as a stream of layers is: a single copy pays for its start, which costs 0.5 % even of 512 MiB."""
_SETTLE_S = 0.03
"""Time left before and after a known copy, so that a reading of the counters lies on either side."""
_ENOUGH_READINGS = 20
TRIES = 3
"""Known copies are made again where a hole lies in the readings: whoever pins memory meanwhile keeps them waiting."""
LATE_S = 2.0
"""How long a reading behind a copy is waited for."""
_IDLE_SHARE = 0.01
"""Of a copy's rate: less was received before it, so the link was at rest and only the readings moved bytes."""
_NO_READING = "calibration: the counters have no reading for the time of the known copy"
Span = tuple[float, float]
"""From and to, CLOCK_MONOTONIC."""


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The payload rate of one kind of copy."""

    kind: str
    """"pcie" or "host memory"."""
    direction: str
    """h2d, d2h or both (the sum of the two)."""
    pinned: bool
    nbytes: int
    """Bytes of one copy, each way."""
    bytes_per_s: float
    """Of the fastest sample."""
    spread: float
    """(largest - smallest) / smallest of the samples."""
    samples_s: tuple[float, ...]
    """Seconds of one copy, the mean of each round."""
    verified: bool
    """The bytes on the other side were the ones that were sent."""
    start_s: float
    """CLOCK_MONOTONIC before the copies, warm-ups included, with a quiet margin; `end_s` after them."""
    end_s: float
    copied_bytes: int
    """What was copied between the two, each way."""


def measure_ceiling(
    device: torch.device,
    *,
    direction: str = "h2d",
    nbytes: int = 512 * MIB,
    samples: int = 8,
    pinned: bool = True,
    at_s: float | None = None,
) -> Ceiling:
    """Measure the payload rate of copies of `nbytes` between host memory and `device`.

    Args:
        at_s: an instant of CLOCK_MONOTONIC to begin at, when memory is pinned and filled; None: at once.

    Raises:
        ValueError: the direction is not one of h2d, d2h, both.
    """
    if direction not in ("h2d", "d2h", "both"):
        raise ValueError(f"direction: expected h2d, d2h or both, got {direction!r}")
    cuda = device.type == "cuda"
    host = [torch.empty(nbytes, dtype=torch.uint8, pin_memory=pinned and cuda) for _ in range(2)]
    there = [torch.empty(nbytes, dtype=torch.uint8, device=device) for _ in range(2)]
    pairs = {"h2d": [(there[0], host[0])], "d2h": [(host[1], there[1])]}
    pairs["both"] = [*pairs["h2d"], *pairs["d2h"]]
    for _, source in pairs[direction]:
        _fill(source)
    timer = _time_on_device if cuda else _time_on_host
    rounds = samples + 2  # the first two warm up
    taken: list[float] = []
    if at_s is not None:
        time.sleep(max(0.0, at_s - time.monotonic()))
    start, end = _span(lambda: taken.extend(timer(pairs[direction], rounds)), device)
    del taken[:2]
    fastest = min(taken)
    return Ceiling(
        kind="pcie" if cuda else "host memory",
        direction=direction,
        pinned=pinned,
        nbytes=nbytes,
        bytes_per_s=len(pairs[direction]) * nbytes / fastest,
        spread=max(taken) / fastest - 1,
        samples_s=tuple(taken),
        verified=all(torch.equal(to.to(device), source.to(device)) for to, source in pairs[direction]),
        start_s=start,
        end_s=end,
        copied_bytes=rounds * _COPIES_A_ROUND * nbytes,
    )


def sweep_chunks(device: torch.device, sizes: Sequence[int], *, pinned: bool, samples: int = 5) -> list[Ceiling]:
    """Measure the host-to-device rate for each copy size in bytes."""
    return [measure_ceiling(device, nbytes=size, samples=samples, pinned=pinned) for size in sizes]


def _fill(buffer: Tensor) -> None:
    """Write a pattern that a copy of another place or an old buffer does not have."""
    seed = torch.randint(0, 256, (4099,), dtype=torch.uint8)  # a prime length: no two pages alike
    repeats = -(-buffer.numel() // seed.numel())
    buffer.copy_(seed.repeat(repeats)[: buffer.numel()])


def _time_on_device(pairs: Sequence[tuple[Tensor, Tensor]], count: int) -> list[float]:
    """Time rounds of copies, each pair on a stream of its own, in seconds a copy."""
    streams: list[Any] = [torch.cuda.Stream() for _ in pairs]
    taken = []
    for _ in range(count):
        torch.cuda.synchronize()
        starts: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in pairs]
        ends: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in pairs]
        for stream, start, end, (to, source) in zip(streams, starts, ends, pairs, strict=True):
            with torch.cuda.stream(stream):
                start.record()
                for _ in range(_COPIES_A_ROUND):
                    to.copy_(source, non_blocking=True)
                end.record()
        torch.cuda.synchronize()
        taken.append(max(starts[0].elapsed_time(end) for end in ends) / 1e3 / _COPIES_A_ROUND)
    return taken


def _time_on_host(pairs: Sequence[tuple[Tensor, Tensor]], count: int) -> list[float]:
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        for _ in range(_COPIES_A_ROUND):
            for to, source in pairs:
                to.copy_(source)
        taken.append((time.perf_counter() - start) / _COPIES_A_ROUND)
    return taken


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


def calibrate(
    sampler: CounterSampler, device: torch.device, *, nbytes: int = 512 * MIB, copies: int = 16
) -> Calibration:
    """Calibrate the counters with known copies from pinned memory, twice: the second one is the proof.

    Raises:
        InstrumentError: the counters gave no evidence while the copies ran.
    """
    if sampler.source is None:
        raise InstrumentError(_NO_READING)
    for _ in range(TRIES):
        idle, spans, payload_bytes = copy_known(device, nbytes=nbytes, copies=copies)
        series = _read_past(sampler, spans[-1][1])
        if is_counted(series, idle, spans):
            break
    return calibrate_by_spans(series, idle, spans, payload_bytes)


def is_counted(series: CounterSeries, idle: Span, copies: Sequence[Span]) -> bool:
    """Return whether the counters were read all the time in which a calibration rested and copied."""
    return all(series.bytes_between(*span) is not None for span in (idle, *copies))


def _read_past(sampler: CounterSampler, end_s: float) -> CounterSeries:
    """Wait for a reading behind an instant, for as long as readings were ever seen to be kept waiting, and longer."""
    deadline = time.monotonic() + LATE_S
    while True:
        series = sampler.read()
        if series is None:
            raise InstrumentError(_NO_READING)
        if (len(series.t_s) and series.t_s[-1] >= end_s) or time.monotonic() > deadline or not sampler.alive:
            return series
        time.sleep(_SETTLE_S)


def copy_known(device: torch.device, *, nbytes: int = 512 * MIB, copies: int = 16) -> tuple[Span, list[Span], int]:
    """Rest for a while and copy known bytes twice; return when that was, and the bytes of either copy."""
    source = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
    to = torch.empty(nbytes, dtype=torch.uint8, device=device)
    idle = _span(lambda: time.sleep(_IDLE_S), device)
    return idle, [_span(lambda: _copy(to, source, copies), device) for _ in range(2)], nbytes * copies


def calibrate_by_spans(series: CounterSeries, idle: Span, copies: Sequence[Span], payload_bytes: int) -> Calibration:
    """Calibrate with a time in which nothing ran, and with known copies: the first gives the ratio.

    Args:
        copies: when each copy ran, quiet margins included; each moved `payload_bytes`.

    Raises:
        InstrumentError: the counters have no evidence for one of these times, or saw no copy.
    """
    idle_bytes = series.bytes_between(*idle)
    if idle_bytes is None or not is_counted(series, idle, copies):
        raise InstrumentError(_NO_READING)
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
    idle = (float(series.t_s[0]), start_s - _SETTLE_S)
    quiet = idle[1] - idle[0] >= _IDLE_S / 2 and _is_idle(series, idle, payload_bytes / (end_s - start_s))
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


def _copy(to: Tensor, source: Tensor, copies: int) -> None:
    for _ in range(copies):
        to.copy_(source, non_blocking=True)
    torch.cuda.synchronize()


def _span(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Run `work` and return when it ran, on CLOCK_MONOTONIC; on a GPU with quiet margins on both sides."""
    settle = _SETTLE_S if device.type == "cuda" else 0.0
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.monotonic()
    time.sleep(settle)
    work()
    time.sleep(settle)
    end = time.monotonic()
    time.sleep(settle)
    return start, end
