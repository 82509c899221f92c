"""On a GPU: pinning our way is no slower than PyTorch's and wastes nothing."""

from __future__ import annotations

import statistics
import time

import pytest
import torch

from djinn_checks.engine.host_memory import HostArena
from djinn_checks.units import GB

pytestmark = pytest.mark.gpu

NBYTES = 13 * GB


def test_pinning_13_gb_is_no_slower_than_pin_memory_in_either_order() -> None:
    torch.cuda.init()
    seconds: dict[str, list[float]] = {"ours": [], "torch": []}
    for name in ("ours", "torch", "torch", "ours"):
        start = time.perf_counter()
        if name == "ours":
            arena = HostArena(NBYTES, pinned=True)
            seconds[name].append(time.perf_counter() - start)
            assert arena.buffer.numel() == NBYTES
            assert arena.buffer.is_pinned()
            arena.close()
        else:
            block = torch.empty(NBYTES, dtype=torch.uint8, pin_memory=True)
            seconds[name].append(time.perf_counter() - start)
            del block
            torch._C._host_emptyCache()
    print(f"\nseconds to pin {NBYTES:,} bytes: {seconds}")
    assert statistics.mean(seconds["ours"]) <= statistics.mean(seconds["torch"])
