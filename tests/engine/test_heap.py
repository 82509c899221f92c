"""What is freed goes back to the system, whichever thread frees it, whatever lies above it and was freed before it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

COMPUTES = """
import ctypes, resource, sys, threading
from pathlib import Path
from djinn_checks.engine.heap import unmap_what_is_freed

c = ctypes.CDLL(None)
c.malloc.restype, c.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def compute():
    c.free(c.malloc(32_000_000))  # as loading a model does
    results = []
    for _ in range(20):
        results.append(c.malloc(1_000_000))
        c.memset(results[-1], 1, 1_000_000)
        c.malloc(2_000)  # of another who keeps it for longer
    for result in results:
        c.free(result)
    computed.set()
    told.wait()

if sys.argv[1] == "told":
    unmap_what_is_freed()
computed, told, before = threading.Event(), threading.Event(), resident()
threading.Thread(target=compute).start()
computed.wait()
print(resident() - before)
told.set()
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library cannot be told")
@pytest.mark.parametrize(("told", "least", "most"), [("told", -1e6, 1e6), ("untold", 15e6, 25e6)])
def test_of_what_a_thread_has_freed_nothing_stays(told: str, least: float, most: float) -> None:
    others = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    own = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    ran = subprocess.run([sys.executable, "-c", COMPUTES, told], capture_output=True, text=True, timeout=60, env=own)
    assert ran.returncode == 0, ran.stderr
    assert least < int(ran.stdout) < most
