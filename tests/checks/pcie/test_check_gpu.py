"""On a GPU: the ring runs at the link's limit, and the check sees who does not."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from djinn_checks.checks.pcie.check import check_pcie
from djinn_checks.engine.segments import cut_model
from djinn_checks.models.open import open_model
from djinn_checks.outcome import Outcome, Status
from djinn_checks.params import PcieParams
from djinn_checks.systems.ring import RingSystem

pytestmark = pytest.mark.gpu

SEVEN_B = "random:llama-2-7b"


def check(**values: Any) -> Outcome:
    params = PcieParams.create(model=SEVEN_B, device="cuda", dtype="float16", **values)
    outcome = check_pcie(params, system_factory=RingSystem if params.system == "ring" else None)
    gc.collect()
    torch.cuda.empty_cache()
    print(f"\n{outcome.status}: {outcome.summary}\n  {outcome.measurements.get('limit')}")
    print(f"  {outcome.measurements.get('passes')}\n  {outcome.measurements.get('memory')}")
    for row in outcome.criteria:
        print(
            f"  {row.status} {row.name} {row.observed} {row.comparison} {row.threshold} {row.reason} [{row.evidence}]"
        )
    if outcome.failure:
        print(outcome.failure.traceback)
    return outcome


def budget_gb(resident: int) -> float:
    """Return the device memory for so many resident layers, everything outside the layers, and three slots."""
    cut = cut_model(open_model(SEVEN_B, dtype=torch.float16, device=torch.device("cuda")).skeleton())
    block = max(segment.nbytes for segment in cut.segments if segment.is_block)
    outer = sum(segment.nbytes for segment in cut.segments if not segment.is_block)
    return (outer + (resident + 3) * block) / 1e9


@pytest.mark.parametrize(("resident", "bar"), [(0, 0.995), (8, 0.99), (16, 0.985), (24, 0.97)])
def test_the_ring_runs_at_the_links_limit(resident: int, bar: float) -> None:
    outcome = check(resident_layers=resident, budget_gb=budget_gb(resident), duration_s=10.0, sweep=False)
    assert outcome.status is Status.PASS
    limit = outcome.measurements["limit"]
    assert limit["ratio"] >= bar
    assert outcome.measurements["reader"]["by_law"]
    assert outcome.measurements["reader"]["says"].startswith("copies")
    assert outcome.criterion("device_memory").status is Status.PASS
    assert outcome.measurements["health"]["seconds"]
    if resident == 0:
        assert limit["streamed_of_ceiling"] >= bar


def test_a_system_that_streams_nothing_fails_by_the_flatline() -> None:
    outcome = check(system="resident", budget_fraction=0.25, duration_s=10.0, sweep=False)
    assert outcome.status is Status.FAIL
    failed = {row.name for row in outcome.criteria if row.status is Status.FAIL}
    assert {"rx_above_threshold", "rx_of_ceiling", "streams_the_model"} <= failed


def test_a_system_that_needs_more_than_the_limit_fails_by_it() -> None:
    outcome = check(system="resident", budget_fraction=0.25, vram_limit_gb=6.0, duration_s=1.0, sweep=False)
    assert outcome.status is Status.FAIL
    assert outcome.criterion("vram_limit").status is Status.FAIL
