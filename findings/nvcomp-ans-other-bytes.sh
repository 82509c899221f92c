#!/usr/bin/env bash
# nvidia-nvcomp-cu13 6.0.0.12, torch 2.11.0+cu130, Python 3.12, NVIDIA H200; needs an NVIDIA GPU
#
# nvCOMP's ANS encoder is not deterministic: the same tensor encoded twice by the same codec gives encodings of the same
# length and of other bytes. Both decode to the tensor. A digest of the encoded form, kept to notice a damaged copy or to
# find a weight that was encoded before, tells nothing; digests have to be of what was decoded.
#
# Seen: 33554432 bytes; encoded to the same length: True; other bytes: True; both decode to the tensor: True
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -c 'import torch' 2> /dev/null || torch="torch==2.11.0"
python3 -m pip install --quiet --no-deps --target "$folder/site" ${torch:-} nvidia-nvcomp-cu13==6.0.0.12 nvidia-libnvcomp-cu13==6.0.0.12
cat > "$folder/encode.py" <<'PY'
import sys

import nvidia
nvidia.__path__.append(sys.argv[1] + "/nvidia")
import torch
from nvidia import nvcomp

weights = (torch.randn(2**24, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.bfloat16).cuda()
raw = weights.view(torch.uint8)
codec = nvcomp.Codec(algorithm="ANS", uncomp_chunk_size=2**20)
encoded = [torch.as_tensor(codec.encode(nvcomp.as_array(raw)), device="cuda").view(torch.uint8).clone() for _ in range(2)]
torch.cuda.synchronize()
decoded = [torch.as_tensor(codec.decode(nvcomp.as_array(part)), device="cuda").view(torch.uint8) for part in encoded]
torch.cuda.synchronize()
same_length = encoded[0].numel() == encoded[1].numel()
differ = int((encoded[0] != encoded[1]).sum()) if same_length else -1
whole = all(torch.equal(part.view(-1)[: raw.numel()], raw) for part in decoded)
print(f"{raw.numel()} bytes; encoded to the same length: {same_length}; other bytes: {differ > 0}; both decode to the tensor: {whole}")
sys.exit(not (same_length and differ > 0 and whole))
PY
PYTHONPATH="$folder/site" python3 "$folder/encode.py" "$folder/site"
