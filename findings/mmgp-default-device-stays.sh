#!/usr/bin/env bash
# mmgp 3.8.2, optimum-quanto 0.2.7, torch 2.11.0+cu130, Python 3.12, NVIDIA H200; needs an NVIDIA GPU
#
# After `offload.all(...)` PyTorch's default device is "cuda" for the whole process, and `release()` does not take it
# back: a tensor that other code makes without naming a device, to hold on the host, is on the GPU, and what loads a
# checkpoint next loads it there.
#
# Seen: a tensor before: cpu; after offload.all: cuda:0; after release: cuda:0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -c 'import torch' 2> /dev/null || torch="torch==2.11.0"
python3 -m pip install --quiet --no-deps --target "$folder/site" ${torch:-} mmgp==3.8.2 optimum-quanto==0.2.7
PYTHONPATH="$folder/site" python3 - 2> "$folder/log" <<'PY' | grep '^a tensor\|^OK' | tee "$folder/seen"
import torch
from mmgp import offload

print("a tensor before:", torch.zeros(1).device)
handle = offload.all(
    {"transformer": torch.nn.Sequential(torch.nn.Linear(8, 8).to(torch.bfloat16))}, quantizeTransformer=False, verboseLevel=0
)
print("a tensor after offload.all:", torch.zeros(1).device)
handle.release()
print("a tensor after release:", torch.zeros(1).device)
PY
grep -q "before: cpu" "$folder/seen" && grep -q "after offload.all: cuda" "$folder/seen" && grep -q "after release: cuda" "$folder/seen"
