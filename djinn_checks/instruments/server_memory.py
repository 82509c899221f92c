"""The memory of a server's process, read from outside while it serves.

On a GPU: device memory of the process as NVML lists it. In a container the process ids that NVML knows may be
others than ours; then the whole device's used memory is read, which is right only while nobody else uses that
GPU, and the source says so. On a CPU: resident memory of the process and the children that it has
at the start, from the kernel.

Memory that the server keeps for itself after it was freed (PyTorch's caching allocator does) counts as in use,
here as for every other process on the machine.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Self
from urllib.parse import urlsplit

import psutil
import torch
from numpy.lib.stride_tricks import sliding_window_view

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments import nvml
from djinn_checks.instruments.environment import find_uuid

_PERIOD_S = 0.02
_HELD_S = 0.25
_STALL_S = 0.1
_LOOKS = 5
"""Readings of the memory for each look at its threads, of which it may have dozens."""


@dataclass
class MemorySeries:
    """Readings in time."""

    source: str
    """What was read."""
    t_s: list[float] = field(default_factory=list)
    """CLOCK_MONOTONIC of each reading."""
    used_bytes: list[int] = field(default_factory=list)
    waited_s: list[float] = field(default_factory=list)
    """Of each reading: for how long the server's threads together had been ready to run, and others ran, since they
    began, some readings ago (schedstat, proc(5)). 0 where the kernel does not say."""

    def typical(self, start_s: float, end_s: float) -> int | None:
        """Return the median of the readings between two times; None if there are none."""
        found = self._between(start_s, end_s)
        return int(median(found)) if found else None

    def held(self, start_s: float, end_s: float) -> int | None:
        """Return the most that was there for a quarter of a second on end between two times; None if nothing was read.

        What a forward allocates and frees comes and goes within that time.
        """
        found = self._between(start_s, end_s)
        count = min(len(found), int(_HELD_S / _PERIOD_S))
        return int(sliding_window_view(found, count).min(axis=1).max()) if found else None

    def longest_gap_s(self, start_s: float, end_s: float) -> float:
        """Return the longest time within two times in which nothing was read."""
        return max(self._gaps(start_s, end_s))

    def stalled_s(self, start_s: float, end_s: float) -> float:
        """Return for how long within two times the reader did not come to read: the machine let nobody run.

        A pause of up to a tenth of a second counts as the reader's own. After its last reading it has ended.
        """
        ended_s = self.t_s[-1] if self.t_s else start_s
        gaps = self._gaps(start_s, min(end_s, max(start_s, ended_s)))
        return sum(gap - _PERIOD_S for gap in gaps if gap > _STALL_S)

    def kept_waiting_s(self, start_s: float, end_s: float) -> float:
        """Return for how long the server's threads together were ready between two times, and others ran.

        By the looks at them around these times, so up to two tenths of a second more.
        """
        if not self.waited_s:
            return 0.0
        first, last = bisect_right(self.t_s, start_s) - 1, bisect_left(self.t_s, end_s) + _LOOKS
        return max(0.0, self.waited_s[min(last, len(self.waited_s) - 1)] - self.waited_s[max(first, 0)])

    def readings(self, start_s: float, end_s: float) -> list[tuple[float, int]]:
        """Return time and bytes of the readings between two times."""
        first, last = bisect_left(self.t_s, start_s), bisect_left(self.t_s, end_s)
        return list(zip(self.t_s[first:last], self.used_bytes[first:last], strict=True))

    def _gaps(self, start_s: float, end_s: float) -> list[float]:
        instants = [start_s, *(t_s for t_s, _ in self.readings(start_s, end_s)), end_s]
        return [after - before for before, after in pairwise(instants)]

    def _between(self, start_s: float, end_s: float) -> list[int]:
        return [used for _, used in self.readings(start_s, end_s)]


class ServerMemory:
    """Reads a process's memory 50 times per second in a thread, as a context manager."""

    def __init__(self, pid: int, device: torch.device) -> None:
        """Find out how the memory of process `pid` can be read.

        Raises:
            InstrumentError: it cannot.
        """
        source, self._read = _open(pid, device)
        self._tasks = Path("/proc", str(pid), "task")
        self._waited_s = 0.0
        self.series = MemorySeries(source)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="server-memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            try:
                used = self._read()
            except (psutil.Error, InstrumentError):
                return  # the process is gone: there is nothing more to read
            if len(self.series.t_s) % _LOOKS == 0:
                self._waited_s = _read_waits(self._tasks) or self._waited_s
            self.series.t_s.append(time.monotonic())
            self.series.used_bytes.append(used)
            self.series.waited_s.append(self._waited_s)


def _read_waits(tasks: Path) -> float | None:
    """Return for how long the threads of a process have waited for a processor, all together; None if unknown.

    A thread that sleeps, for a timer or for a lock, waits for no processor.
    """
    waits = []
    try:
        for task in tasks.iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                waits.append(int((task / "schedstat").read_text(encoding="ascii").split()[1]) / 1e9)
    except (OSError, ValueError, IndexError):
        return None
    return sum(waits) if waits else None


def find_listener(address: str) -> int:
    """Return the id of the process on this machine that listens at an HTTP address.

    Raises:
        InstrumentError: there is none, or it is not to be seen.
    """
    parts = urlsplit(address)
    here = _addresses_here(parts.hostname or "")
    try:
        listening = [tcp for tcp in psutil.net_connections("tcp") if tcp.status == psutil.CONN_LISTEN]
    except psutil.AccessDenied as error:
        raise InstrumentError(f"{address}: the listening processes of this machine cannot be seen ({error})") from error
    pids = [
        listener.pid
        for listener in listening
        if listener.laddr and listener.laddr.port == parts.port and listener.laddr.ip in here
        if listener.pid is not None
    ]
    if not pids:
        raise InstrumentError(
            f"{address}: no process of this machine that listens there can be seen, so its memory cannot be read; "
            "run the check on the server's machine, as the same user"
        )
    return int(pids[0])


def _addresses_here(host: str) -> set[str]:
    """Return the addresses of a host that are this machine's own, and those that stand for all of them; or nothing."""
    try:
        wanted = {str(place[0]) for *_, place in socket.getaddrinfo(host, None)}
    except OSError:
        return set()
    own = {known.address.partition("%")[0] for card in psutil.net_if_addrs().values() for known in card}
    return (wanted & own) | {"0.0.0.0", "::"} if wanted & own else set()


def _open(pid: int, device: torch.device) -> tuple[str, Callable[[], int]]:
    if device.type == "cpu":
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return "resident memory of the server's process, from the kernel", lambda: _resident(family)
    nvml.initialize()
    handle = nvml.find_handle(find_uuid(device))
    if nvml.process_memory_bytes(handle, pid) is not None:
        return "NVML: device memory of the server's process", lambda: _of_process(handle, pid)
    return "NVML: used memory of the whole GPU (it does not list the server's process)", lambda: _of_device(handle)


def _resident(family: list[psutil.Process]) -> int:
    return sum(int(process.memory_info().rss) for process in family)


def _of_process(handle: object, pid: int) -> int:
    used = nvml.process_memory_bytes(handle, pid)
    if used is None:
        raise InstrumentError(f"NVML: process {pid} is not listed any more")
    return used


def _of_device(handle: object) -> int:
    found = nvml.read_memory_bytes(handle)
    if found is None:
        raise InstrumentError("NVML: the device's memory cannot be read")
    return found[1] - found[0]
