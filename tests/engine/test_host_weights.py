"""A checkpoint streams from the files that store it, without a second copy, wherever its bytes are those that are used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from djinn_checks import LogitsParams, PcieParams, check_logits, check_pcie
from djinn_checks.engine import mapped_files
from djinn_checks.engine.host_weights import ANOTHER_TYPE, IN_NO_FILE, TOO_SHORT, HostWeights, find_runs, order_by_file
from djinn_checks.engine.mapped_files import Stretch, join_pages, map_file
from djinn_checks.engine.segments import Cut, cut_model
from djinn_checks.models.open import Model, open_model
from djinn_checks.outcome import Status
from djinn_checks.systems.ring import RingSystem
from tests.engine.modules import logits, prompt
from tests.models.folders import save_folder

CPU = torch.device("cpu")
OWN = "in memory of their own"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return saved models by name; "sharded" has a layer that lies in two files."""
    made = {}
    for name in ("llama", "gpt2", "llama-tied"):
        made[name] = tmp_path_factory.mktemp(name)
        save_folder(name, made[name])
    made["sharded"] = tmp_path_factory.mktemp("sharded")
    save_folder("llama", made["sharded"], max_shard_size="300KB")
    return made


def opened(folder: Path, dtype: torch.dtype = torch.float32) -> Model:
    return open_model(str(folder), dtype=dtype, device=CPU)


def ring(model: Model, share: float = 0.6) -> RingSystem:
    return RingSystem(model, device=CPU, budget_bytes=int(share * model.weight_bytes))


def bytes_by_reason(system: RingSystem) -> dict[str, int]:
    found: dict[str, int] = {}
    for source in system.sources():
        found[source.why] = found.get(source.why, 0) + source.nbytes
    return found


@pytest.mark.parametrize("name", ["llama", "gpt2", "llama-tied", "sharded"])
def test_a_checkpoint_streams_from_its_files_and_answers_bit_for_bit(folders: dict[str, Path], name: str) -> None:
    model = opened(folders[name])
    expected = logits(model.resident(CPU), prompt(9))
    with ring(model) as system:
        module = system.open()
        assert all(torch.equal(logits(module, prompt(9)), expected) for _ in range(3))
        nbytes = bytes_by_reason(system)
        assert nbytes["streamed where they lie"] > 0.95 * sum(nbytes.values())
        assert sum(nbytes.values()) == system.plan.bytes_per_pass
        before = system.claimed_bytes() or 0
        logits(module, prompt(9))
        assert (system.claimed_bytes() or 0) - before == system.predicted_bytes_per_pass() == system.plan.bytes_per_pass
        rows = system.timeline()
        assert sum(row["bytes"] for row in rows) == 4 * system.plan.bytes_per_pass
        assert {row["layer"] for row in rows} == {system._cut.segments[n.segment].name for n in system.plan.loads}
