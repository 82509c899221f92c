"""The host check over the links of real GPUs, as many as there are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from djinn_checks.checks.host.check import check_host
from djinn_checks.checks.host.plan import plan_gpus
from djinn_checks.instruments.gpus import find_gpus
from djinn_checks.outcome import Outcome, Status
from djinn_checks.params import HostParams

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
PARAMS = {"stage_s": 0.3, "rounds": 2}


def test_every_row_of_a_host_is_decided_or_says_what_it_lacks(tmp_path: Path) -> None:
    outcome = check_host(HostParams.create(**PARAMS), save_to=tmp_path / "host.json")
    assert outcome.failure is None, outcome.failure
    undecided = [row for row in outcome.criteria if row.required and row.status is Status.INCONCLUSIVE]
    assert [row.reason for row in undecided if not row.reason] == []
    assert outcome.criterion("counted_vs_copied").status is Status.PASS
    assert outcome.criterion("copies_arrived").status is Status.PASS
    assert Outcome.load(outcome.save(tmp_path / "host.json")) == outcome
    again = check_host(HostParams.create(recording=str(tmp_path / "host.samples.json.gz")))
    assert [row.status for row in again.criteria] == [row.status for row in outcome.criteria]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_counters_of_another_gpu_are_seen() -> None:
    params = HostParams.create(**PARAMS, peers=False)
    plan = plan_gpus(params, find_gpus())
    one, other, *rest = plan.links
    links = (replace(one, source=other.source), replace(other, source=one.source), *rest)
    row = check_host(params, plan=replace(plan, links=links)).criterion("counted_vs_copied")
    assert row.status is Status.FAIL
    assert "are counters swapped?" in row.reason
