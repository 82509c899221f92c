"""Systems that keep a second copy move and claim what they planned: only the device's memory tells."""

from __future__ import annotations

import pytest
import torch

from djinn_checks.faults.pcie.second_copies import KeepsSecondCopy, MovesJunk
from djinn_checks.models.open import open_model
from djinn_checks.systems.ring import RingSystem

CPU = torch.device("cpu")
IDS = torch.zeros(1, 1, dtype=torch.int64)


@pytest.mark.parametrize("kind", [MovesJunk, KeepsSecondCopy])
@torch.no_grad()
def test_outputs_and_claims_are_those_of_an_honest_system(kind: type[RingSystem]) -> None:
    model = open_model("random:tiny", dtype=torch.float32, device=CPU, seed=0)
    expected = model.resident(CPU)(IDS).logits
    with kind(model, device=CPU, budget_bytes=model.weight_bytes // 2) as system:
        module = system.open()
        before = system.claimed_bytes()
        logits = [module(IDS).logits for _ in range(2)]
        claimed = system.claimed_bytes()
        assert all(torch.equal(found, expected) for found in logits)
        assert before is not None
        assert claimed is not None
        assert claimed - before == pytest.approx(2 * system.plan.bytes_per_pass, rel=0.5)
        if isinstance(system, MovesJunk):
            assert system._place.all(), "the junk was moved"
