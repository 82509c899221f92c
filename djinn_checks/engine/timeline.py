"""When each copy and each computation ran, for the last few passes: links that take notes.

They stand in for the plain links (`WeightRingBuffer(..., link_factory=open_timed_link)`) and leave copies
and their order alone. On CUDA the times come from events on the two streams, anchored to the host's
monotonic clock by one synchronized event at the start; event and host clocks drift by microseconds per
second, which a plot of milliseconds does not show. What they note is the engine's own account: it
illustrates, and decides no criterion.

Where segments travel encoded, the stage that decodes takes notes too (`stage_factory=open_timed_link`). What uses the
link's copies is then the decode, and `Step` joins the two accounts.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from djinn_checks.engine.link import CudaLink, HostLink

KEPT_CYCLES = 4
"""How many of the last cycles of copies are kept."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """One copy and what used it: the computation, or a decode. Seconds on CLOCK_MONOTONIC."""

    slot: int
    """Index into the plan's loads."""
    number: int
    """Of the copies to this slot since the start, from 1."""
    copy_start_s: float
    copy_end_s: float
    compute_start_s: float
    compute_end_s: float


class TimedCudaLink(CudaLink):
    """A `CudaLink` that surrounds copies and computations with timing events."""

    def __init__(self, device: torch.device, slots: int, *, stream: torch.cuda.Stream | None = None) -> None:
        super().__init__(device, slots, stream=stream)
        self._numbers = [0] * slots
        self._running: dict[int, list[Any]] = {}
        self._done: deque[tuple[int, int, list[Any]]] = deque(maxlen=KEPT_CYCLES * slots)
        self._anchor = self._stamp(torch.cuda.current_stream(device))
        self._anchor.synchronize()
        self._anchor_s = time.monotonic()

    def _stamp(self, stream: Any) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(stream)
        return event

    def run(self, slot: int, work: Callable[[], Any], *, after: int | None) -> None:
        if after is not None:
            self.stream.wait_event(self._reached[after])
        start = self._stamp(self.stream)
        super().run(slot, work, after=None)
        self._numbers[slot] += 1
        self._running[slot] = [start, self._stamp(self.stream)]

    def wait(self, slot: int) -> None:
        super().wait(slot)
        if len(self._running.get(slot, ())) == 2:
            self._running[slot].append(self._stamp(torch.cuda.current_stream(self._device)))

    def mark(self, slot: int) -> None:
        super().mark(slot)
        events = self._running.pop(slot, [])
        if len(events) == 3:
            ended = self._stamp(torch.cuda.current_stream(self._device))
            self._done.append((slot, self._numbers[slot], [*events, ended]))

    def timeline(self) -> list[Span]:
        """Return what was noted and has happened, oldest first. Waits for the computation so far."""
        torch.cuda.current_stream(self._device).synchronize()
        happened = [entry for entry in self._done if all(event.query() for event in entry[2])]
        return [_span(slot, number, list(map(self._seconds, events))) for slot, number, events in happened]

    def _seconds(self, event: Any) -> float:
        return self._anchor_s + float(self._anchor.elapsed_time(event)) / 1e3


class TimedHostLink(HostLink):
    """A `HostLink` whose thread notes the clock around each copy."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._numbers = [0] * slots
        self._copy_times: dict[int, tuple[float, float]] = {}
        self._started: dict[int, float] = {}
        self._done: deque[tuple[int, int, list[float]]] = deque(maxlen=KEPT_CYCLES * slots)

    def run(self, slot: int, work: Callable[[], Any], *, after: int | None) -> None:
        def timed() -> None:
            start = time.monotonic()
            work()
            self._copy_times[slot] = (start, time.monotonic())

        self._numbers[slot] += 1
        super().run(slot, timed, after=after)

    def wait(self, slot: int) -> None:
        super().wait(slot)
        self._started.setdefault(slot, time.monotonic())

    def mark(self, slot: int) -> None:
        started = self._started.pop(slot, None)
        if started is not None:
            self._done.append((slot, self._numbers[slot], [*self._copy_times[slot], started, time.monotonic()]))
        super().mark(slot)

    def timeline(self) -> list[Span]:
        """Return what was noted, oldest first."""
        return [_span(slot, number, times) for slot, number, times in list(self._done)]


def _span(slot: int, number: int, times: list[float]) -> Span:
    copy_start, copy_end, compute_start, compute_end = times
    return Span(
        slot=slot,
        number=number,
        copy_start_s=copy_start,
        copy_end_s=copy_end,
        compute_start_s=compute_start,
        compute_end_s=compute_end,
    )


@dataclass(frozen=True, kw_only=True)
class Step:
    """One load on its way: its copy, its decode if it travelled encoded, its use. Seconds on CLOCK_MONOTONIC."""

    slot: int
    copy_s: tuple[float, float]
    decode_s: tuple[float, float] | None
    compute_s: tuple[float, float]


def join_timelines(copies: list[Span], decodes: list[Span] | None) -> list[Step]:
    """Return the steps of the loads that both accounts know, oldest first.

    Args:
        copies: the link's account.
        decodes: that of the stage that decodes; None if there is none.
    """
    if decodes is None:
        return [
            Step(
                slot=span.slot,
                copy_s=(span.copy_start_s, span.copy_end_s),
                decode_s=None,
                compute_s=(span.compute_start_s, span.compute_end_s),
            )
            for span in copies
        ]
    copied = {(span.slot, span.number): span for span in copies}
    both = [(copied[span.slot, span.number], span) for span in decodes if (span.slot, span.number) in copied]
    return [
        Step(
            slot=use.slot,
            copy_s=(copy.copy_start_s, copy.copy_end_s),
            decode_s=(copy.compute_start_s, copy.compute_end_s),
            compute_s=(use.compute_start_s, use.compute_end_s),
        )
        for copy, use in both
    ]


def open_timed_link(
    device: torch.device, slots: int, *, stream: torch.cuda.Stream | None = None
) -> TimedCudaLink | TimedHostLink:
    """Return a link to `device` that takes notes."""
    return TimedCudaLink(device, slots, stream=stream) if device.type == "cuda" else TimedHostLink(slots)
