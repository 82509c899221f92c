"""How much memory a system takes, on the device and on the host.

Device. PyTorch's CUDA allocator counts every tensor of the process on that device and keeps the peak itself:
nothing is sampled, so nothing is missed between samples. It is blind to memory taken beside it (a system's
own cudaMalloc, other processes) and to the CUDA context. With `whole_device` the driver's count of used
memory is looked at as well, at the moments that `look` is called.

Host. The kernel keeps the peak of the process's resident memory (VmHWM). Registered and touched pages are
in it; memory that the driver itself maps (`cudaHostAlloc`, PyTorch's own pinned memory) is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch


class PeakMemory:
    """Measures the peak within the blocks it is entered for; it may be entered many times.

    >>> memory = PeakMemory(torch.device("cuda"))
    >>> with memory:
    ...     model(ids)
    >>> memory.peak_bytes
    """

    def __init__(self, device: torch.device, *, whole_device: bool = False, taken_before: int = 0) -> None:
        """Measure allocated bytes; with `whole_device` reserved bytes, and what the driver counts beside them.

        Args:
            taken_before: bytes beside PyTorch's allocator that what is judged took before the first block.
        """
        self._device = device
        self._whole_device = whole_device
        self._taken_before = taken_before
        self._used_before = 0
        self.peak_bytes: int | None = None
        """Most bytes at any moment within the blocks; None if not measured, as on a CPU."""

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._used_before = used_beside(self._device) - self._taken_before
        return self

    def look(self) -> None:
        """Count now what the whole device has in use beyond what it had in use beside PyTorch at the start."""
        if self._device.type == "cuda" and self._whole_device:
            self._raise_to(_used(self._device) - self._used_before)

    def beside_bytes(self) -> int | None:
        """Return what the driver counts beside PyTorch's allocator beyond the start, whoever took it; None on a CPU."""
        return None if self._device.type != "cuda" else used_beside(self._device) - self._used_before

    def __exit__(self, *exc: object) -> None:
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_reserved if self._whole_device else torch.cuda.max_memory_allocated
            self._raise_to(peak(self._device))

    def _raise_to(self, count: int) -> None:
        self.peak_bytes = max(self.peak_bytes or 0, count)


def used_beside(device: torch.device) -> int:
    """Return the bytes in use on a GPU beside PyTorch's allocator, whoever took them, as the driver counts; 0 of a
    CPU."""
    return _used(device) - torch.cuda.memory_reserved(device) if device.type == "cuda" else 0


def _used(device: torch.device) -> int:
    free, total = torch.cuda.mem_get_info(device)
    return int(total - free)


class HostGrowth:
    """Measures how far the process's resident memory grows above what it was, at its peak within the block."""

    def __init__(self) -> None:
        self._before: int | None = None
        self.growth_bytes: int | None = None
        """None where the kernel does not say, or does not let the peak be reset."""

    def __enter__(self) -> Self:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak, see proc(5)
        except OSError:
            return self
        self._before = _status_bytes("VmRSS")
        return self

    def __exit__(self, *exc: object) -> None:
        peak = _status_bytes("VmHWM")
        if self._before is not None and peak is not None:
            self.growth_bytes = max(0, peak - self._before)


def _status_bytes(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
