"""Peak device memory, as PyTorch's CUDA allocator counts it.

Valid because every tensor of the process on that device comes from this allocator, which keeps the peak
itself: nothing is sampled, so nothing is missed between samples. It is blind to memory taken beside it (a
system's own cudaMalloc, other processes) and to the CUDA context.
"""

from __future__ import annotations

import torch


class PeakMemory:
    """Measures the peak within the blocks it is entered for; it may be entered many times.

    >>> memory = PeakMemory(torch.device("cuda"))
    >>> with memory:
    ...     model(ids)
    >>> memory.peak_bytes
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.peak_bytes: int | None = None
        """Most bytes allocated at any moment within the blocks; None if not measured, as on a CPU."""

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._device.type == "cuda":
            self.peak_bytes = max(self.peak_bytes or 0, torch.cuda.max_memory_allocated(self._device))
