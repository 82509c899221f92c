"""A sharded checkpoint streams from its files: of its weights, memory holds those that stay, and the ring."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from djinn_checks import WeightRingBuffer, install_ring_buffer_hooks
from djinn_checks.models.open import open_model
from djinn_checks.units import MIB

CONFIG = LlamaConfig(
    vocab_size=2048, hidden_size=1024, intermediate_size=2816, num_hidden_layers=6, num_attention_heads=8,
    max_position_embeddings=64, tie_word_embeddings=False,
)  # fmt: skip
SHARD = "40MB"  # one layer has 51 MB, so layers lie across shards

OPEN = """
import json, sys, threading
from pathlib import Path
import torch
from djinn_checks.models.open import open_model
from djinn_checks.systems.ring import RingSystem

def private_bytes():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

def watch():
    while not done.wait(0.001):
        seen.append(private_bytes())

cpu = torch.device("cpu")
model = open_model(sys.argv[1], dtype=torch.float32, device=cpu)
system = RingSystem(model, device=cpu, budget_bytes=int(0.6 * model.weight_bytes))
before, seen, done = private_bytes(), [], threading.Event()
thread = threading.Thread(target=watch)
thread.start()
system.open()
done.set()
thread.join()
plan = system.plan
print(json.dumps({"peak": max(seen) - before, "weights": model.weight_bytes,
                  "needed": system._ring.stream.host.own_bytes + plan.resident_bytes + plan.ring_bytes}))
system.close()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sharded")
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(copy.deepcopy(CONFIG)).save_pretrained(path, max_shard_size=SHARD)
    assert len(list(path.glob("model-*-of-*.safetensors"))) > 5
    return path


def test_of_a_sharded_checkpoint_no_more_than_what_stays_and_the_ring_is_in_memory_while_it_loads(folder: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", OPEN, str(folder)], capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    # What a thread pool and the allocator take of their own accord; a second copy of what streams would be 130 MB.
    assert found["weights"] > 300 * MIB
    assert found["peak"] <= found["needed"] + 32 * MIB


def test_a_streamed_sharded_checkpoint_answers_bit_for_bit_like_transformers_own_loading(folder: Path) -> None:
    cpu = torch.device("cpu")
    model = open_model(str(folder), dtype=torch.float32, device=cpu)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(ids).logits
        module = model.skeleton()
        ring = WeightRingBuffer(int(0.6 * model.weight_bytes), cpu)
        ring.register_model("sharded", model.weights)
        hooks = install_ring_buffer_hooks(module, ring, "sharded")
        found = module(ids).logits
        hooks.remove()
    assert torch.equal(found, expected)
