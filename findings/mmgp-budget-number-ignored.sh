#!/usr/bin/env bash
# mmgp 3.8.2, optimum-quanto 0.2.7, torch 2.11.0+cu130, Python 3.12, NVIDIA H200; needs an NVIDIA GPU
#
# `offload.all(..., budgets=64)` asks mmgp to keep a model within 64 MB of device memory. Given as a number, which is the
# form that its documentation names first, the budget is not read: the whole model is loaded, with no word about it. The
# same budget as a dictionary, `{"*": 64}`, is kept (about twice of it is used, as documented).
#
# Seen: 64 MB as a number: a model of 512 MB peaks at 544 MB; 64 MB as a dictionary: it peaks at 96 MB
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -c 'import torch' 2> /dev/null || torch="torch==2.11.0"
python3 -m pip install --quiet --no-deps --target "$folder/site" ${torch:-} mmgp==3.8.2 optimum-quanto==0.2.7
cat > "$folder/peak.py" <<'PY'
import sys

import torch
from mmgp import offload


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(2048, 2048, bias=False) for _ in range(64))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


model = Model().to(torch.bfloat16)
budgets = {"number": 64, "dictionary": {"*": 64}}[sys.argv[1]]
offload.all({"transformer": model}, pinnedMemory=True, quantizeTransformer=False, budgets=budgets, verboseLevel=0)
with torch.no_grad():
    model(torch.ones(1, 2048, dtype=torch.bfloat16, device="cuda"))
print("peak", torch.cuda.max_memory_allocated() // 2**20)
PY
for form in number dictionary; do
    peak=$(PYTHONPATH="$folder/site" python3 "$folder/peak.py" "$form" 2> "$folder/log" | sed -n 's/^peak //p') || { cat "$folder/log"; exit 1; }
    echo "64 MB as a $form: a model of 512 MB peaks at $peak MB"
    eval "$form=$peak"
done
test "$number" -ge 512 && test "$dictionary" -le 256
