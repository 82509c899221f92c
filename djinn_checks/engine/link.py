"""The link: copies from host memory to the device, in order, beside the computation.

`CudaLink` puts copies on a stream of their own and orders them against the computation with events, so
the host never waits. `HostLink` does the same between two host buffers with a copy thread, so that the
engine above it runs unchanged on a machine without a GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor


class Link(Protocol):
    """Copies in the order they are given. A mark stands for "the computation has come this far"."""

    def copy(self, slot: int, destination: Tensor, source: Tensor, *, after: int | None) -> None:
        """Enqueue a copy of 1-d uint8 tensors of equal size; it may start once mark `after` is reached.

        Args:
            slot: names the copy for `wait`; a slot is reused only after its copy was waited for or dropped.
        """
        ...

    def wait(self, slot: int) -> None:
        """Make the computation that follows wait for the copy of `slot`. Raises what the copy raised."""
        ...

    def mark(self, slot: int) -> None:
        """Set mark `slot` behind all computation enqueued so far."""
        ...

    def close(self) -> None:
        """Finish the copies under way and free what the link holds."""
        ...


class Stage(Link, Protocol):
    """A link that does other work too, in order and beside the computation: what decodes is one."""

    def run(self, slot: int, work: Callable[[], Any], *, after: int | None) -> None:
        """Enqueue `work` as `copy` enqueues a copy. On CUDA it enqueues kernels on the current stream."""
        ...


class CudaLink:
    """Copies on a CUDA stream of its own. No call blocks the host, `close` excepted."""

    def __init__(self, device: torch.device, slots: int, *, stream: torch.cuda.Stream | None = None) -> None:
        """Make the events of `slots` copies.

        Args:
            stream: what to copy on; None makes one.
        """
        self._device = device
        self.stream = stream or torch.cuda.Stream(device)
        # What the allocator hands out may still be in use by computation enqueued before.
        self.stream.wait_stream(torch.cuda.current_stream(device))
        self._copied = [torch.cuda.Event() for _ in range(slots)]
        self._reached = [torch.cuda.Event() for _ in range(slots)]

    def copy(self, slot: int, destination: Tensor, source: Tensor, *, after: int | None) -> None:
        self.run(slot, partial(destination.copy_, source, non_blocking=True), after=after)

    def run(self, slot: int, work: Callable[[], Any], *, after: int | None) -> None:
        if after is not None:
            self.stream.wait_event(self._reached[after])
        with torch.cuda.stream(self.stream):
            work()
        self._copied[slot].record(self.stream)

    def wait(self, slot: int) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._copied[slot])

    def mark(self, slot: int) -> None:
        self._reached[slot].record(torch.cuda.current_stream(self._device))

    def close(self) -> None:
        self.stream.synchronize()


class HostLink:
    """Copies by one thread between two buffers in host memory.

    The computation on a CPU is finished when the call that did it returns, so the mark that it sets is reached at
    once. Another thread may set marks too, and behind those a copy waits. `wait` blocks the caller, which is the
    computation.
    """

    def __init__(self, slots: int) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="host-link")
        self._copies: list[Future[Any] | None] = [None] * slots
        self._given = [0] * slots
        self._marked = [0] * slots  # how many of those given had been used when the mark was set
        self._changed = threading.Condition()

    def copy(self, slot: int, destination: Tensor, source: Tensor, *, after: int | None) -> None:
        self.run(slot, partial(destination.copy_, source), after=after)

    def run(self, slot: int, work: Callable[[], Any], *, after: int | None) -> None:
        with self._changed:
            needed = self._given[after] if after is not None else 0
            self._given[slot] += 1
        self._copies[slot] = self._thread.submit(self._run_behind, work, after, needed)

    def _run_behind(self, work: Callable[[], Any], after: int | None, needed: int) -> None:
        if after is not None:
            with self._changed:
                self._changed.wait_for(lambda: self._marked[after] >= needed)
        work()

    def wait(self, slot: int) -> None:
        copied = self._copies[slot]
        if copied is not None:
            copied.result()

    def mark(self, slot: int) -> None:
        with self._changed:
            self._marked[slot] = self._given[slot]
            self._changed.notify_all()

    def close(self) -> None:
        self._thread.shutdown(wait=True)


def open_link(device: torch.device, slots: int, *, stream: torch.cuda.Stream | None = None) -> CudaLink | HostLink:
    """Return the link to `device` with room for `slots` copies under way, on a CUDA stream of its own or `stream`."""
    return CudaLink(device, slots, stream=stream) if device.type == "cuda" else HostLink(slots)
