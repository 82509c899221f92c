"""An honest system whose weights travel compressed is failed by no check, and its claim is of bytes on the wire."""

from __future__ import annotations

import pytest

from djinn_checks import LogitsParams, PcieParams, check_logits, check_pcie
from djinn_checks.outcome import Status
from djinn_checks.systems.ring import EncodedRingSystem

TINY = {"model": "random:tiny", "device": "cpu", "dtype": "bfloat16", "budget_fraction": 0.5}


def test_the_logits_check_passes_it() -> None:
    params = LogitsParams.create(**TINY, prompts=1, decode_tokens=1)
    outcome = check_logits(params, system_factory=EncodedRingSystem)
    assert outcome.status is Status.PASS, outcome.summary
    assert outcome.criterion("bytes_claimed_vs_planned").status is Status.PASS
    assert outcome.criterion("bytes_claimed_vs_witnessed").status is Status.SKIP
    streamed = outcome.criterion("weights_streamed")
    assert streamed.status is Status.PASS


def test_the_pcie_check_fails_no_required_row_without_a_gpu() -> None:
    params = PcieParams.create(**TINY, duration_s=1, sweep=False)
    outcome = check_pcie(params, system_factory=EncodedRingSystem)
    assert outcome.status is Status.INCONCLUSIVE, outcome.summary
    assert outcome.criterion("streams_the_model").status is Status.PASS
    assert outcome.criterion("claimed_vs_counted").status is Status.SKIP


@pytest.mark.gpu
def test_the_pcie_check_fails_no_required_row_on_a_gpu() -> None:
    pytest.importorskip("nvidia.libnvcomp")
    values = {"model": "random:llama-2-7b", "dtype": "bfloat16", "budget_gb": 2.2}
    params = PcieParams.create(**values, device="cuda", duration_s=3, sweep=False)
    outcome = check_pcie(params, system_factory=EncodedRingSystem)
    failed = [row.name for row in outcome.criteria if row.required and row.status is Status.FAIL]
    assert failed == [], outcome.summary
