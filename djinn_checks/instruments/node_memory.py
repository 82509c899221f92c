"""Host memory of a NUMA node that the caller names: mapped, bound there, touched, and asked where it lies.

Linux binds by mbind(2) and tells by get_mempolicy(2); neither needs a library. Where the system refuses (a container's
filter, another operating system) the memory is had without being bound, and `node` says where it was found, or None.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CALLS = {"x86_64": (237, 239), "aarch64": (235, 236)}
"""Numbers of mbind and get_mempolicy."""
_BIND, _NODE_OF_ADDRESS = 2, 1 | 2
_NODES_IN_MASK = 1024


@dataclass(frozen=True, kw_only=True)
class NodeMemory:
    """A block of host memory."""

    array: NDArray[np.uint8]
    address: int
    node: int | None
    """Where its first page lies, by the kernel; None if it does not tell."""
    bound: bool
    """Whether it was bound to the node that was asked for."""


def map_memory(nbytes: int, node: int | None = None) -> NodeMemory:
    """Return touched host memory, on a NUMA node if one is given and the system binds."""
    area = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        area.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(area, dtype=np.uint8)  # holds on to the mapping
    address = int(array.ctypes.data)
    bound = node is not None and _bind(address, nbytes, node)
    array[:] = 0
    return NodeMemory(array=array, address=address, node=_find_node(address), bound=bound)


def _call(which: int, *arguments: Any) -> int | None:
    numbers = _CALLS.get(platform.machine())
    if numbers is None or sys.platform != "linux":
        return None
    return int(ctypes.CDLL(None).syscall(ctypes.c_long(numbers[which]), *arguments))


def _bind(address: int, nbytes: int, node: int) -> bool:
    mask = (ctypes.c_ulong * (_NODES_IN_MASK // 64))()
    mask[node // 64] = 1 << (node % 64)
    long = ctypes.c_ulong
    return _call(0, long(address), long(nbytes), long(_BIND), mask, long(_NODES_IN_MASK), long(0)) == 0


def _find_node(address: int) -> int | None:
    found = ctypes.c_int(-1)
    long = ctypes.c_ulong
    said = _call(1, ctypes.byref(found), None, long(0), long(address), long(_NODE_OF_ADDRESS))
    return found.value if said == 0 and found.value >= 0 else None
