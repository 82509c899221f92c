"""Where memory lies that a pointer of the device reads: on the device, or on the host's side of the link.

A tensor says `cuda` of pinned, registered and managed host memory, too, if a system made it from a device pointer to
such memory: kernels then fetch every byte over the link. So the driver is asked (`cuPointerGetAttribute`), which knows
what each address belongs to and whose answers leave no error behind for the next CUDA call to raise.

On a CPU all memory is the host's, and the CPU stands in for the device: what tensors lie in counts as device memory.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any, Literal

import torch

Place = Literal["device", "host"]

PlaceOf = Callable[[torch.device, int], Place]
"""From a tensor's device and address to where that memory lies."""

Ask = Callable[[int, int], int | None]
"""From an attribute's number and an address to the driver's answer; None if it knows no such memory."""

# CUpointer_attribute and CUmemorytype of cuda.h.
_MEMORY_TYPE, _IS_MANAGED = 2, 8
_HOST, _DEVICE = 1, 2
_INVALID_VALUE = 1
"""The driver's error for an address that it does not know."""


def find_place(device: torch.device, address: int, ask: Ask | None = None) -> Place:
    """Return where the memory at `address` lies, which a tensor on `device` has for its own.

    Args:
        ask: puts a question to the driver; None: CUDA's, on this machine.
    """
    if device.type != "cuda":
        return "device"
    answer = ask or _ask_cuda
    if answer(_IS_MANAGED, address):
        return "host"
    kind = answer(_MEMORY_TYPE, address)
    # Memory that the driver does not know, and that a device reads all the same, is the host's own pages.
    return "host" if kind in (_HOST, None) else "device"


def find_place_beside(device: torch.device) -> PlaceOf:
    """Return `find_place` for systems that run on `device`: memory of a CPU beside a GPU is the host's."""

    def find(of: torch.device, address: int) -> Place:
        is_beside = of.type == "cpu" and device.type != "cpu"
        return "host" if is_beside else find_place(of, address)

    return find


def _ask_cuda(attribute: int, address: int) -> int | None:
    found = ctypes.c_uint(0)
    failed = _driver().cuPointerGetAttribute(ctypes.byref(found), ctypes.c_int(attribute), ctypes.c_uint64(address))
    if failed and failed != _INVALID_VALUE:  # a thread without a context, or none that was made: nothing is excused
        return _DEVICE if attribute == _MEMORY_TYPE else 0
    return None if failed else found.value


@functools.cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")
