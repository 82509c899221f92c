"""Whether code may have run that no witness can see into: CUDA graphs that are replayed, and compiled functions.

A forward in which no weight was seen in use is a lie, or it is such code. PyTorch's compiler counts the frames that it
compiled. A replayed graph leaves no trace in Python, so on a GPU nothing is excluded, and the link's counters tell.
"""

from __future__ import annotations

import sys
import traceback
from typing import Any

import torch


def find_unseen_code(device: torch.device) -> str:
    """Return in words what may run unseen in this process; empty: nothing that PyTorch knows of."""
    if device.type == "cuda":
        return "it may be a CUDA graph that was replayed"
    dynamo: Any = sys.modules.get("torch._dynamo.utils")
    compiled = int(dynamo.counters["frames"].get("ok", 0)) if dynamo is not None else 0
    return f"this process compiled {compiled} functions" if compiled else ""


def was_compiled(error: BaseException) -> bool:
    """Tell whether an exception came through what PyTorch's compiler made, or through the compiler."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(str(frame.f_globals.get("__name__", "")).startswith("torch._dynamo") for frame, _ in frames)
