"""When each copy and each computation ran, for the last few passes: links that take notes.

They stand in for the plain links (`WeightRingBuffer(..., link_factory=open_timed_link)`) and leave copies
and their order alone. On CUDA the times come from events on the two streams, anchored to the host's
monotonic clock by one synchronized event at the start; event and host clocks drift by microseconds per
second, which a plot of milliseconds does not show. What they note is the engine's own account: it
illustrates, and decides no criterion.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from djinn_checks.engine.link import CudaLink, HostLink

KEPT_CYCLES = 4
"""How many of the last cycles of copies are kept."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """One copy and the computation that used it. Seconds on CLOCK_MONOTONIC."""

    slot: int
    """Index into the plan's loads."""
    copy_start_s: float
    copy_end_s: float
    compute_start_s: float
    compute_end_s: float


class TimedCudaLink(CudaLink):
    """A `CudaLink` that surrounds copies and computations with timing events."""

    def __init__(self, device: torch.device, slots: int) -> None:
        super().__init__(device, slots)
        self._running: dict[int, list[Any]] = {}
        self._done: deque[tuple[int, list[Any]]] = deque(maxlen=KEPT_CYCLES * slots)
        self._anchor = self._stamp(torch.cuda.current_stream(device))
        self._anchor.synchronize()
        self._anchor_s = time.monotonic()

    def _stamp(self, stream: Any) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(stream)
        return event

    def copy(self, slot: int, destination: Tensor, source: Tensor, *, after: int | None) -> None:
        if after is not None:
            self.stream.wait_event(self._reached[after])
        start = self._stamp(self.stream)
        super().copy(slot, destination, source, after=None)
        self._running[slot] = [start, self._stamp(self.stream)]

    def wait(self, slot: int) -> None:
        super().wait(slot)
        if len(self._running.get(slot, ())) == 2:
            self._running[slot].append(self._stamp(torch.cuda.current_stream(self._device)))

    def mark(self, slot: int) -> None:
        super().mark(slot)
        events = self._running.pop(slot, [])
        if len(events) == 3:
            self._done.append((slot, [*events, self._stamp(torch.cuda.current_stream(self._device))]))

    def timeline(self) -> list[Span]:
        """Return what was noted, oldest first. Waits for the computation so far."""
        torch.cuda.current_stream(self._device).synchronize()
        return [_span(slot, [self._seconds(event) for event in events]) for slot, events in self._done]

    def _seconds(self, event: Any) -> float:
        return self._anchor_s + float(self._anchor.elapsed_time(event)) / 1e3


class TimedHostLink(HostLink):
    """A `HostLink` whose thread notes the clock around each copy."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._copy_times: dict[int, tuple[float, float]] = {}
        self._started: dict[int, float] = {}
        self._done: deque[tuple[int, list[float]]] = deque(maxlen=KEPT_CYCLES * slots)

    def copy(self, slot: int, destination: Tensor, source: Tensor, *, after: int | None) -> None:
        def timed() -> None:
            start = time.monotonic()
            destination.copy_(source)
            self._copy_times[slot] = (start, time.monotonic())

        self._copies[slot] = self._thread.submit(timed)

    def wait(self, slot: int) -> None:
        super().wait(slot)
        self._started.setdefault(slot, time.monotonic())

    def mark(self, slot: int) -> None:
        started = self._started.pop(slot, None)
        if started is not None:
            self._done.append((slot, [*self._copy_times[slot], started, time.monotonic()]))

    def timeline(self) -> list[Span]:
        """Return what was noted, oldest first."""
        return [_span(slot, times) for slot, times in self._done]


def _span(slot: int, times: list[float]) -> Span:
    copy_start, copy_end, compute_start, compute_end = times
    return Span(
        slot=slot,
        copy_start_s=copy_start,
        copy_end_s=copy_end,
        compute_start_s=compute_start,
        compute_end_s=compute_end,
    )


def open_timed_link(device: torch.device, slots: int) -> TimedCudaLink | TimedHostLink:
    """Return a link to `device` that takes notes."""
    return TimedCudaLink(device, slots) if device.type == "cuda" else TimedHostLink(slots)
