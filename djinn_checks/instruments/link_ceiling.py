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

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.calibration import (
    IDLE_S,
    LATE_S,
    NO_READING,
    SETTLE_S,
    TRIES,
    Calibration,
    Span,
    calibrate_by_spans,
    is_counted,
)
from djinn_checks.instruments.ceiling import Ceiling
from djinn_checks.instruments.counters import CounterSampler, CounterSeries
from djinn_checks.units import MIB

_COPIES_A_ROUND = 4
"""Back to back, as a stream of layers is: a single copy pays for its start, which costs 0.5 % even of 512 MiB."""


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


def calibrate(
    sampler: CounterSampler, device: torch.device, *, nbytes: int = 512 * MIB, copies: int = 16
) -> Calibration:
    """Calibrate the counters with known copies from pinned memory, twice: the second one is the proof.

    Raises:
        InstrumentError: the counters gave no evidence while the copies ran.
    """
    if sampler.source is None:
        raise InstrumentError(NO_READING)
    for _ in range(TRIES):
        idle, spans, payload_bytes = copy_known(device, nbytes=nbytes, copies=copies)
        series = read_past(sampler, spans[-1][1])
        if is_counted(series, idle, spans):
            break
    return calibrate_by_spans(series, idle, spans, payload_bytes)


def read_past(sampler: CounterSampler, end_s: float) -> CounterSeries:
    """Wait for a reading behind an instant, for as long as readings were ever seen to be kept waiting, and longer."""
    deadline = time.monotonic() + LATE_S
    while True:
        series = sampler.read()
        if series is None:
            raise InstrumentError(NO_READING)
        if (len(series.t_s) and series.t_s[-1] >= end_s) or time.monotonic() > deadline or not sampler.alive:
            return series
        time.sleep(SETTLE_S)


def copy_known(device: torch.device, *, nbytes: int = 512 * MIB, copies: int = 16) -> tuple[Span, list[Span], int]:
    """Rest for a while and copy known bytes twice; return when that was, and the bytes of either copy."""
    source = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
    to = torch.empty(nbytes, dtype=torch.uint8, device=device)
    idle = _span(lambda: time.sleep(IDLE_S), device)
    return idle, [_span(lambda: _copy(to, source, copies), device) for _ in range(2)], nbytes * copies


def _copy(to: Tensor, source: Tensor, copies: int) -> None:
    for _ in range(copies):
        to.copy_(source, non_blocking=True)
    torch.cuda.synchronize()


def _span(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Run `work` and return when it ran, on CLOCK_MONOTONIC; on a GPU with quiet margins on both sides."""
    settle = SETTLE_S if device.type == "cuda" else 0.0
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.monotonic()
    time.sleep(settle)
    work()
    time.sleep(settle)
    end = time.monotonic()
    time.sleep(settle)
    return start, end
