"""Reads segments into the memory where they are encoded, one ahead of the encoder.

What lies in files comes by several threads at once: each reads a part of a file into a small pinned buffer of its own
and copies it on from there, so that reading the page cache and crossing the link go on beside each other. Nothing has
to be registered for that, and files need not be in the page cache. Other weights are read as mappings give them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from djinn_checks.engine.host_memory import HostArena
from djinn_checks.engine.host_weights import Run, find_runs
from djinn_checks.engine.segments import Segment, Weights
from djinn_checks.errors import EngineError
from djinn_checks.units import MIB

_READERS = 8
"""Threads: one reads some 6 GB/s out of the page cache, the link takes 55."""
_PART = 4 * MIB
"""Bytes that a thread reads at a time, and has pinned memory for: more takes longer to pin than to read."""


def enter_device(device: torch.device) -> Callable[[], None]:
    """Return what a thread does first that works for `device`: each thread of CUDA's begins with device 0."""
    if device.type != "cuda":
        return lambda: None
    index = torch.cuda.current_device() if device.index is None else device.index
    return lambda: torch.cuda.set_device(index)


class SegmentReader:
    """Reads the segments of one model, from any thread, one at a time. It is a context manager."""

    def __init__(self, weights: Weights, device: torch.device) -> None:
        """Start the threads; buffers are made when they are needed."""
        self._weights, self._device = weights, device
        self._is_cuda = device.type == "cuda"
        enter = enter_device(device)
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="segment-reader", initializer=enter)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="file-reader", initializer=enter)
        self._own = threading.local()
        self._arenas: list[HostArena] = []
        self._files: dict[Path, int] = {}

    def __enter__(self) -> SegmentReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._ahead.shutdown(wait=True, cancel_futures=True)
        self._readers.shutdown(wait=True, cancel_futures=True)
        for file in self._files.values():
            os.close(file)
        for arena in self._arenas:
            arena.close()

    def read_all(self, segments: Mapping[int, Segment]) -> Iterator[tuple[int, Tensor]]:
        """Give each segment's number and bytes (1-d uint8 on the device), in order, while the next one is being read.

        Raises:
            EngineError: a weight is missing, has another shape or dtype, or its file cannot be read.
        """
        following: tuple[int, Future[Tensor]] | None = None
        for index, segment in segments.items():
            ready, following = following, (index, self._start(segment))
            if ready is not None:
                yield ready[0], ready[1].result()
            del ready  # it holds what its reader may have let go of
        if following is not None:
            yield following[0], following[1].result()

    def _start(self, segment: Segment) -> Future[Tensor]:
        place = torch.zeros(segment.nbytes, dtype=torch.uint8, device=self._device)
        if self._is_cuda:
            torch.cuda.current_stream(self._device).synchronize()  # the threads' streams do not know of these zeros
        return self._ahead.submit(self.read, segment, place)

    @torch.no_grad()
    def read(self, segment: Segment, place: Tensor) -> Tensor:
        """Read a segment into its place (1-d uint8 on the device), wait for it, and return the place.

        Raises:
            EngineError: as `read_all`.
        """
        parts: list[Future[None]] = []
        for run in find_runs(segment, self._weights, least_share=0.0):
            if run.path is not None:
                parts += self._read_run(run.path, run, place)
                continue
            for tensor in run.tensors:
                tensor.read(place, self._weights)
        for part in parts:
            part.result()
        if self._is_cuda:
            torch.cuda.current_stream(self._device).synchronize()
        return place

    def _read_run(self, path: Path, run: Run, place: Tensor) -> Iterable[Future[None]]:
        if path not in self._files:
            self._files[path] = os.open(path, os.O_RDONLY)
        return [
            self._readers.submit(
                self._read_part, path, run.start + start, place[run.offset + start :][: min(_PART, run.nbytes - start)]
            )
            for start in range(0, run.nbytes, _PART)
        ]

    def _read_part(self, path: Path, start: int, place: Tensor) -> None:
        buffer = self._buffer()[: place.numel()] if self._is_cuda else place
        done, into = 0, buffer.numpy().data
        while done < place.numel():
            count = os.preadv(self._files[path], [into[done:]], start + done)
            if not count:
                raise EngineError(f"{path}: was cut short while it was read; fetch it again")
            done += count
        if self._is_cuda:
            with torch.cuda.stream(self._own.stream):
                place.copy_(buffer, non_blocking=True)
            self._own.stream.synchronize()

    def _buffer(self) -> Tensor:
        """Return this thread's own pinned memory."""
        if not hasattr(self._own, "buffer"):
            arena = HostArena(_PART, pinned=True)
            self._arenas.append(arena)
            self._own.buffer, self._own.stream = arena.buffer, torch.cuda.Stream(self._device)
        buffer: Tensor = self._own.buffer
        return buffer
