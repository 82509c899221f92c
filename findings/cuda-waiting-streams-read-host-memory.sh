#!/usr/bin/env bash
# Driver 580.159.04, torch 2.11.0+cu130, nvidia-ml-py 13.615.71, Python 3.12, NVIDIA H200, PCIe 5.0 x16; needs an NVIDIA
# GPU with these counters
#
# A CUDA stream that waits for an event moves no data. But once about three streams wait at the same time, the GPU reads
# 0.1 to 2.5 GB/s of host memory for as long as they do, though nobody copies and no kernel touches host memory; it goes
# from one blocked channel to the next. Beside copies it takes that from them: up to 6 % more bytes were counted than
# copied. Which streams disturb each other follows from the channels that they are put on: with
# CUDA_DEVICE_MAX_CONNECTIONS=32 two waiting streams did if both were even or both odd in the order of their making.
#
# Seen, MB/s received and sent while so many streams wait: 0, 1, 2: 0 and 0; 3: 225 and 75; 4: 341 and 106; 5: 327 and 99;
# 6: 348 and 100. In other processes three gave 1,370 to 2,540 at first
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -c 'import torch' 2> /dev/null || torch="torch==2.11.0"
python3 -m pip install --quiet --no-deps --target "$folder/site" ${torch:-} nvidia-ml-py==13.615.71
cat > "$folder/wait.py" <<'PY'
import sys
import time

import pynvml
import torch

RX, TX = pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES, pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES
CYCLES = 200_000_000
"""About a tenth of a second; at 2.5 GB/s the counters, which wrap at 2**32, are far from doing so."""

pynvml.nvmlInit()
torch.cuda.init()
uuid = "GPU-" + str(torch.cuda.get_device_properties(0).uuid)
device = pynvml.nvmlDeviceGetHandleByUUID(uuid)
number = torch.zeros(1, device="cuda")
streams = [torch.cuda.Stream() for _ in range(6)]
for stream in streams:
    with torch.cuda.stream(stream):
        number.add_(1)


def read():
    return [field.value.uiVal for field in pynvml.nvmlDeviceGetFieldValues(device, [RX, TX])]


def rate(waiting):
    """Let so many streams wait for one kernel; return what was received and sent meanwhile, in MB/s."""
    torch.cuda.synchronize()
    time.sleep(0.05)
    before, start = read(), time.monotonic()
    torch.cuda._sleep(CYCLES)
    slept = torch.cuda.Event()
    slept.record()
    for stream in streams[:waiting]:
        with torch.cuda.stream(stream):
            stream.wait_event(slept)
            number.add_(1)
    torch.cuda.synchronize()
    taken = time.monotonic() - start
    return [((after - first) % 2**32) / taken / 1e6 for first, after in zip(before, read(), strict=True)]


rates = {waiting: rate(waiting) for waiting in range(len(streams) + 1)}
print("MB/s received and sent while so many streams wait:")
print(", ".join(f"{waiting}: {received:.0f} and {sent:.0f}" for waiting, (received, sent) in rates.items()))
sys.exit(not (rates[0][0] < 20 and max(rates[waiting][0] for waiting in (3, 4, 5, 6)) > 80))
PY
PYTHONPATH="$folder/site" python3 "$folder/wait.py"
