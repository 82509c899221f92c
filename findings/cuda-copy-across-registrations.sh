#!/usr/bin/env bash
# Driver 580.159.04, torch 2.11.0+cu130, Python 3.12, NVIDIA H200; needs an NVIDIA GPU
#
# Two registrations that touch each other are not one: memory of which each page is registered with CUDA, but one half by
# one call of cudaHostRegister and the other by a second, is refused by a copy that reads across the place where they
# meet. A copy from the same memory unregistered is taken, and so is one within either half. So whoever registers a
# mapped file piece by piece, since one call holds others up for long, has to cut copies where the pieces meet.
#
# Seen, errors of cudaMemcpyAsync and of cudaMemcpy (first half, across, second half): not registered 0 0 0 and 0 0 0; two
# registrations 0 1 0 and 0 1 0; one registration 0 0 0 and 0 0 0. Error 1 is cudaErrorInvalidValue
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -c 'import torch' 2> /dev/null || python3 -m pip install --quiet --target "$folder/site" torch==2.11.0
cat > "$folder/across.py" <<'PY'
import ctypes
import mmap
import re

import torch

HALF = 4 << 20
torch.zeros(1, device="cuda")
with open("/proc/self/maps") as maps:
    runtime = ctypes.CDLL(re.search(r"/\S*libcudart\.so\S*", maps.read()).group())
memory = mmap.mmap(-1, 2 * HALF)
memory[:] = bytes(range(256)) * (2 * HALF // 256)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
there = torch.empty(2 * HALF, dtype=torch.uint8, device="cuda")


def copy(offset, nbytes, wait):
    """Copy to the device; return the runtime's error."""
    to, source = ctypes.c_void_p(there.data_ptr()), ctypes.c_void_p(start + offset)
    if wait:
        return runtime.cudaMemcpy(to, source, ctypes.c_size_t(nbytes), 1)
    error = runtime.cudaMemcpyAsync(to, source, ctypes.c_size_t(nbytes), 1, None)
    torch.cuda.synchronize()
    runtime.cudaGetLastError()
    return error


def register(offset, nbytes):
    assert runtime.cudaHostRegister(ctypes.c_void_p(start + offset), ctypes.c_size_t(nbytes), 0) == 0


def unregister(offset):
    assert runtime.cudaHostUnregister(ctypes.c_void_p(start + offset)) == 0


def look():
    return [copy(offset, HALF, wait) for wait in (False, True) for offset in (0, HALF // 2, HALF)]


seen = {"not registered": look()}
register(0, HALF)
register(HALF, HALF)
seen["two registrations"] = look()
unregister(0)
unregister(HALF)
register(0, 2 * HALF)
seen["one registration"] = look()
for what, errors in seen.items():
    print(f"{what}: cudaMemcpyAsync {errors[:3]}, cudaMemcpy {errors[3:]} (first half, across, second half)")
assert seen["not registered"] == seen["one registration"] == [0] * 6, seen
assert seen["two registrations"] == [0, 1, 0] * 2, seen
PY
PYTHONPATH="$folder/site" python3 "$folder/across.py"
