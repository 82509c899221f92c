#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0, Python 3.11
#
# A class may ask that some of its weights stay in float32 whatever type a model is loaded in
# (`_keep_in_fp32_modules`). `from_pretrained(folder, dtype=float16)` honours that. `from_config(config,
# dtype=float16)`, which builds the same class for the same type, does not: every weight is float16. So a module that
# is built from its configuration and then filled, as code that streams weights does, computes something else than the
# loaded model, and both look right.
#
# Seen: from_pretrained: 7 of 54 weights in float32; from_config: 0 of 54 weights in float32
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
"$folder/venv/bin/python" - "$folder/model" <<'PY'
import sys

import torch
from transformers import AutoModelForCausalLM, GptOssConfig

config = GptOssConfig(
    vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, num_local_experts=4, num_experts_per_tok=2,
)
AutoModelForCausalLM.from_config(config).save_pretrained(sys.argv[1])
loaded = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float16)
built = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
counts = []
for name, model in (("from_pretrained", loaded), ("from_config", built)):
    weights = list(model.parameters())
    counts.append(sum(weight.dtype == torch.float32 for weight in weights))
    print(f"{name}: {counts[-1]} of {len(weights)} weights in float32")
sys.exit(not (counts[0] > 0 and counts[1] == 0))
PY
