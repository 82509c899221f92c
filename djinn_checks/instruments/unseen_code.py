"""Whether code may have run that no witness can see into: CUDA graphs that are replayed, and compiled functions.

A forward in which no weight was seen in use is a lie, or it is such code. PyTorch's compiler counts the frames that it
compiled. A replayed graph leaves no trace in Python, so on a GPU nothing is excluded, and the link's counters tell.
"""

from __future__ import annotations

import sys
from typing import Any

import torch


def find_unseen_code(device: torch.device) -> str:
    """Return in words what may run unseen in this process; empty: nothing that PyTorch knows of."""
    if device.type == "cuda":
        return "it may be a CUDA graph that was replayed"
    compiled = count_compiled()
    return f"this process compiled {compiled} functions" if compiled else ""


def count_compiled() -> int:
    """Return how many functions PyTorch's compiler has compiled in this process."""
    dynamo: Any = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["frames"].get("ok", 0)) if dynamo is not None else 0
