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

import torch
from torch import Tensor

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.counters import CounterSampler, CounterSeries
from djinn_checks.units import MIB

_IDLE_S = 0.25
_COPIES_A_ROUND = 4
"""Back to back, as a stream of layers is: a single copy pays for its start, which costs 0.5 % even of 512 MiB."""
_SETTLE_S = 0.03
"""Time left before and after a known copy, so that a reading of the counters lies on either side."""


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
    device: torch.device, *, direction: str = "h2d", nbytes: int = 512 * MIB, samples: int = 8, pinned: bool = True
) -> Ceiling:
    """Measure the payload rate of copies of `nbytes` between host memory and `device`.

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
    """How many bytes the counters see on the wire for each byte of payload, host to device."""

    wire_per_payload: float
    idle_bytes_per_s: float
    """What the counters see with nothing going on; it is not subtracted from a run, only from the known copy."""
    residual: float | None
    """|counted / known - 1| of a second known copy, counted with the first one's ratio."""
    payload_bytes: int

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


def calibrate(
    sampler: CounterSampler, device: torch.device, *, nbytes: int = 512 * MIB, copies: int = 16
) -> Calibration:
    """Calibrate the counters with known copies from pinned memory, twice: the second one is the proof.

    Raises:
        InstrumentError: the counters gave no evidence while the copies ran.
    """
    source = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
    to = torch.empty(nbytes, dtype=torch.uint8, device=device)
    idle = _span(lambda: time.sleep(_IDLE_S), device)
    spans = [_span(lambda: _copy(to, source, copies), device) for _ in range(2)]
    series = sampler.read()
    counted = [series.bytes_between(*span) if series else None for span in (idle, *spans)]
    if series is None or None in counted:
        raise InstrumentError("calibration: the counters have no reading for the time of the known copy")
    idle_bytes, first, second = (float(count or 0.0) for count in counted)
    idle_rate = idle_bytes / (idle[1] - idle[0])
    payload = nbytes * copies
    known = zip((first, second), spans, strict=True)
    ratios = [(count - idle_rate * (end - start)) / payload for count, (start, end) in known]
    if ratios[0] <= 0:
        raise InstrumentError(f"calibration: {payload:,} bytes were copied and the counters saw none of them")
    return Calibration(
        wire_per_payload=ratios[0],
        idle_bytes_per_s=idle_rate,
        residual=abs(ratios[1] / ratios[0] - 1),
        payload_bytes=payload,
    )


def calibrate_from_trace(series: CounterSeries, start_s: float, end_s: float, payload_bytes: int) -> Calibration:
    """Calibrate with a recorded copy of known size.

    Raises:
        InstrumentError: the trace has no evidence for that time, or the copy's size or time is impossible.
    """
    if payload_bytes <= 0:
        raise InstrumentError(
            f"calibration: expected a known copy of at least a byte, got {payload_bytes:,}; give the bytes it moved"
        )
    wire = series.bytes_between(start_s, end_s)
    if not wire:
        raise InstrumentError("calibration: the trace has no readings for the time of the known copy")
    return Calibration(
        wire_per_payload=wire / payload_bytes, idle_bytes_per_s=0.0, residual=None, payload_bytes=payload_bytes
    )


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
