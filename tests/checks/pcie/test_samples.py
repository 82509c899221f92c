"""The counters' readings are kept where the caller keeps the outcome, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from djinn_checks.checks.pcie import one_gpu
from djinn_checks.checks.pcie.check import check_pcie
from djinn_checks.faults.pcie.traffic import make_evidence
from djinn_checks.params import PcieParams

PARAMS = PcieParams.create(model="random:tiny", device="cpu", budget_fraction=0.5)


@pytest.mark.parametrize(("file", "kept"), [("run.json", ["run.samples.csv.gz"]), ("", [])])
def test_readings_lie_beside_the_outcome_that_a_caller_saves(
    file: str, kept: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_gpu, "_measure_on_host", lambda *_: make_evidence())
    outcome = check_pcie(PARAMS, save_to=tmp_path / file if file else "")
    assert [path.name for path in tmp_path.iterdir()] == kept
    assert "save_to" not in outcome.params
