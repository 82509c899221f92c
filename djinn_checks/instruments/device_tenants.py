"""Device memory that is taken beside PyTorch's allocator of this process: by a system's own calls, or by a child of it.

The driver counts what is in use on the whole device, whoever uses it. What was in use before, and what this process's
allocator has reserved since, are taken off; the rest is beside it. NVML's list of processes says whose it is, where it
has them by the numbers that this process knows (in a container it may have others, or none).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments import nvml

if TYPE_CHECKING:
    import torch

Used = Callable[[], int]
"""Gives bytes in use."""


class DeviceTenants:
    """Looks at the device's memory whenever it is told to, and keeps the most that it saw."""

    def __init__(
        self,
        device: torch.device,
        uuid: str | None,
        pid: int,
        *,
        in_use: Used | None = None,
        reserved: Used | None = None,
        of_processes: Callable[[], dict[int, int]] | None = None,
    ) -> None:
        """Look for the first time.

        Args:
            pid: of this process; those of its children, and theirs, count with it.
            in_use: gives what the whole device has in use; None: asks CUDA.
            reserved: gives what PyTorch's allocator has reserved; None: asks it.
            of_processes: gives bytes by process number; None: asks NVML.
        """
        self._in_use = in_use or (lambda: _in_use(device))
        self._reserved = reserved or (lambda: _reserved(device))
        self._of_processes = of_processes or (lambda: _of_processes(uuid))
        self._pid = pid
        self._before = self._in_use() - self._reserved()
        self._before_ours = self._ours()
        self.beside_bytes = 0
        self.ours_bytes: int | None = None if self._before_ours is None else 0

    def look(self) -> None:
        """Look now; the list of processes is read only where more was taken than ever before."""
        beside = self._in_use() - self._reserved() - self._before
        if beside <= self.beside_bytes:
            return
        self.beside_bytes = beside
        ours = self._ours()
        if ours is None or self._before_ours is None or self.ours_bytes is None:
            self.ours_bytes = None
            return
        self.ours_bytes = max(self.ours_bytes, ours - self._before_ours)

    def _ours(self) -> int | None:
        """Return what this process and its children have beside the allocator; None if NVML does not list it."""
        found = self._of_processes()
        if self._pid not in found:
            return None
        family = find_family(self._pid)
        return sum(used for pid, used in found.items() if pid in family) - self._reserved()


def find_family(pid: int) -> set[int]:
    """Return a process and all that descend from it, from the kernel's process tree."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdecimal() else []
        except OSError:
            continue
        if fields:
            parents[int(entry.name)] = int(fields[1])
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _reserved(device: torch.device) -> int:
    import torch

    return torch.cuda.memory_reserved(device)


def _in_use(device: torch.device) -> int:
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return int(total - free)


def _of_processes(uuid: str | None) -> dict[int, int]:
    try:
        with nvml.open_nvml():
            return nvml.read_process_memory(nvml.find_handle(uuid))
    except (InstrumentError, OSError):
        return {}
