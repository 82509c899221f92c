"""The device memory that sessions share: a hard limit, whole blocks, and given back to the driver when asked.

Blocks that sessions leave are kept for the next one and counted against the limit for as long as they are
kept, so what the sessions hold on the device never exceeds it. `trim` hands them back to the driver, where
other processes, and an instrument outside this one, can see that the memory is free.

On a GPU the blocks come from PyTorch's allocator, under a stream of their own, so that no block is ever one
that a computation still uses. On a CPU they are mappings of their own, which leave the process when freed.
"""

from __future__ import annotations

import contextlib
import threading

import torch
from torch import Tensor

from djinn_checks.engine.host_memory import HostArena
from djinn_checks.errors import EngineError, KvCapacityError
from djinn_checks.units import MIB, format_bytes

_GRANULE = 2 * MIB
"""What PyTorch's allocator and the driver round large blocks up to, so that the limit counts what is taken."""

_CLASSES = 16
"""Sizes of blocks between two powers of two. A session that has grown by a turn mostly finds a kept block of its
size, so the driver is not asked. That wastes a sixteenth of a block at most."""

_WASTE = 1.25
"""A kept block is used again if it is at most so many times as large as needed: a larger one wastes the limit."""


class DeviceMemory:
    """Blocks of bytes on one device, never more than `limit_bytes` of them. Safe to use from any thread."""

    def __init__(self, device: torch.device, limit_bytes: int) -> None:
        self.device = device
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._taken: dict[int, int] = {}
        self._kept: list[Tensor] = []
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def taken_bytes(self) -> int:
        """Bytes of the blocks in use."""
        with self._lock:
            return sum(self._taken.values())

    @property
    def free_bytes(self) -> int:
        """Bytes that can still be taken."""
        return self.limit_bytes - self.taken_bytes

    def take(self, nbytes: int) -> Tensor:
        """Return a block of at least `nbytes`: a 1-d uint8 tensor with any content.

        Raises:
            KvCapacityError: the limit does not allow it now, or the device itself has no memory left.
        """
        nbytes = block_bytes(nbytes)
        with self._lock:
            block = self._find_kept(nbytes)
            if block is None:
                self._make_room(nbytes)
                block = self._allocate_or_explain(nbytes)
            self._taken[block.data_ptr()] = block.numel()
            return block

    def give(self, block: Tensor) -> None:
        """Take a block back. Nothing may be computing or copying with it any more."""
        with self._lock:
            del self._taken[block.data_ptr()]
            self._kept.append(block)

    def trim(self) -> None:
        """Hand all blocks that are not in use back to the driver."""
        with self._lock:
            if self._kept:
                self._drop_kept()

    def _find_kept(self, nbytes: int) -> Tensor | None:
        fitting = [block for block in self._kept if nbytes <= block.numel() <= nbytes * _WASTE]
        if not fitting:
            return None
        best = min(fitting, key=Tensor.numel)
        self._kept = [block for block in self._kept if block is not best]
        return best

    def _make_room(self, nbytes: int) -> None:
        taken = sum(self._taken.values())
        if taken + nbytes > self.limit_bytes:
            raise KvCapacityError(
                f"KV on the device: {format_bytes(nbytes)} more are needed, {format_bytes(taken)} of "
                f"{format_bytes(self.limit_bytes)} are in use; wait, close sessions or raise the limit (kv_device_gb)"
            )
        if taken + sum(map(Tensor.numel, self._kept)) + nbytes > self.limit_bytes:
            self._drop_kept()

    def _allocate_or_explain(self, nbytes: int) -> Tensor:
        try:
            return self._allocate(nbytes)
        except (torch.OutOfMemoryError, EngineError):
            self._drop_kept()
        try:
            return self._allocate(nbytes)
        except (torch.OutOfMemoryError, EngineError) as error:
            raise KvCapacityError(
                f"KV on the device: the limit allows {format_bytes(nbytes)} more, {self.device} itself has less left "
                f"({type(error).__name__}); lower the limit (kv_device_gb), or free the device's memory"
            ) from error

    def _allocate(self, nbytes: int) -> Tensor:
        if self.device.type == "cpu":
            return HostArena(nbytes, pinned=False).buffer  # unmapped when its last view is gone
        with torch.cuda.stream(self._stream) if self._stream else contextlib.nullcontext():
            return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def _drop_kept(self) -> None:
        self._kept = []
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def block_bytes(nbytes: int) -> int:
    """Return the size of the block that is taken for `nbytes`."""
    lower = 1 << max(0, nbytes.bit_length() - 1)
    step = max(_GRANULE, lower // _CLASSES)
    return -(-nbytes // step) * step
