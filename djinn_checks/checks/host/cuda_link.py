"""A GPU's link, driven by copies of pinned memory: large ones without a pause, timed by events on the device.

The process sees its own GPU alone. Of each NUMA node that is asked for it has a block for either direction, bound,
touched and pinned before anything is timed. Up to three copies wait on the device all the time, so the link never waits
for the host; the clock is the device's, from the event before the first copy to the one behind the last.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from djinn_checks.checks.host.driver import FAR, NEAR, SMALL_BYTES, Latency, Part, list_ways, wait_until
from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.node_memory import NodeMemory, map_memory
from djinn_checks.instruments.topology import cpus_of

_WAITING = 3
"""Copies on the device that wait or run."""
_POLL_S = 1e-4


class CudaLink:
    """Both directions between the memory of a node or two and one GPU."""

    def __init__(self, near: int | None, far: int | None, nbytes: int) -> None:
        """Map, touch and pin host memory, and have as much on the device.

        Raises:
            InstrumentError: memory cannot be pinned.
        """
        _stay_near(near)
        self._device = torch.device("cuda", 0)
        torch.cuda.set_device(self._device)
        self._blocks: dict[str, NodeMemory] = {}
        self._host: dict[tuple[str, str], Tensor] = {}
        pattern = torch.from_numpy(np.random.default_rng(0).integers(0, 256, 4099, dtype=np.uint8))
        pattern = pattern.repeat(-(-nbytes // pattern.numel()))[:nbytes]  # a prime length: no two pages alike
        for memory, node in ((NEAR, near), (FAR, far)):
            if memory == FAR and node is None:
                continue
            for way in ("h2d", "d2h"):
                self._host[memory, way] = self._pin(memory, nbytes, node)
            self._host[memory, "h2d"].copy_(pattern)
        self._there = {way: torch.zeros(nbytes, dtype=torch.uint8, device=self._device) for way in ("h2d", "d2h")}
        self._there["d2h"].copy_(pattern)
        self._pattern = self._there["d2h"].clone()
        self._streams = {way: torch.cuda.Stream() for way in ("h2d", "d2h")}
        self._written: set[tuple[str, str]] = set()
        for memory, way in self._host:
            self._enqueue(memory, way)
        torch.cuda.synchronize()

    def _pin(self, memory: str, nbytes: int, node: int | None) -> Tensor:
        block = map_memory(nbytes, node)
        result = int(torch.cuda.cudart().cudaHostRegister(block.address, nbytes, 0))
        if result != 0:
            raise InstrumentError(f"pinning: CUDA could not lock {nbytes:,} bytes (error {result}); see `ulimit -l`")
        self._blocks[memory] = block
        return torch.from_numpy(block.array)

    def describe(self) -> dict[str, Any]:
        """Return the nodes that the memory lies on, by the kernel, and whether it was bound there."""
        found: dict[str, Any] = {memory: block.node for memory, block in self._blocks.items()}
        return {NEAR: None, FAR: None} | found | {"bound": all(block.bound for block in self._blocks.values())}

    def _enqueue(self, memory: str, way: str) -> None:
        host, there = self._host[memory, way], self._there[way]
        to, source = (there, host) if way == "h2d" else (host, there)
        with torch.cuda.stream(self._streams[way]):
            to.copy_(source, non_blocking=True)
        self._written.add((memory, way))

    def copy(self, direction: str, memory: str, at_s: float, for_s: float) -> list[Part]:
        """Keep each direction's queue full until the time is over, then wait for what is left in it."""
        ways = list_ways(direction)
        nbytes = self._there["h2d"].numel()
        starts = {way: torch.cuda.Event(enable_timing=True) for way in ways}
        ends: dict[str, list[Any]] = {way: [] for way in ways}
        waiting: dict[str, deque[Any]] = {way: deque() for way in ways}
        wait_until(at_s)
        began = time.monotonic()
        for way in ways:
            starts[way].record(self._streams[way])
        while time.monotonic() < at_s + for_s:
            idle = True
            for way in ways:
                while waiting[way] and waiting[way][0].query():
                    waiting[way].popleft()
                if len(waiting[way]) < _WAITING:
                    self._enqueue(memory, way)
                    end: Any = torch.cuda.Event(enable_timing=True)
                    end.record(self._streams[way])
                    waiting[way].append(end)
                    ends[way].append(end)
                    idle = False
            if idle:
                time.sleep(_POLL_S)
        torch.cuda.synchronize()
        return [
            Part(
                direction=way,
                nbytes=len(ends[way]) * nbytes,
                start_s=began,
                seconds=starts[way].elapsed_time(ends[way][-1]) / 1e3,
            )
            for way in ways
        ]

    def measure_latency(self, direction: str, for_s: float) -> Latency:
        """Copy 4 KiB and wait, over and over; the host's clock."""
        host, there = self._host[NEAR, direction][:SMALL_BYTES], self._there[direction][:SMALL_BYTES]
        to, source = (there, host) if direction == "h2d" else (host, there)
        taken: list[float] = []
        end_s = time.monotonic() + for_s
        stream = self._streams[direction]
        with torch.cuda.stream(stream):
            while time.monotonic() < end_s or len(taken) < 20:
                start = time.perf_counter()
                to.copy_(source, non_blocking=True)
                stream.synchronize()
                taken.append(time.perf_counter() - start)
        median, high = np.quantile(taken[10:], [0.5, 0.99])
        return Latency(direction=direction, copies=len(taken), median_us=median * 1e6, p99_us=high * 1e6)

    def verify(self) -> bool:
        """Compare on the device what came there, and what came back from it."""
        torch.cuda.synchronize()
        arrived = torch.equal(self._there["h2d"], self._pattern)
        back = (self._host[memory, way] for memory, way in self._written if way == "d2h")
        return arrived and all(torch.equal(block.to(self._device), self._pattern) for block in back)


def _stay_near(node: int | None) -> None:
    """Run on the processors of a node, as far as this process may."""
    if node is None or not hasattr(os, "sched_setaffinity"):
        return
    near = cpus_of(node) & os.sched_getaffinity(0)
    if near:
        os.sched_setaffinity(0, near)


def open_link(near: int | None, far: int | None, nbytes: int) -> CudaLink:
    """Return the driver of the GPU that this process sees."""
    return CudaLink(near, far, nbytes)
