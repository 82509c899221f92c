"""What the witness of one decode step proves, and what it leaves open."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from djinn_checks.checks.pcie.criteria import judge_evidence
from djinn_checks.checks.pcie.decode_loop import _certainly_moved, decode_stretches
from djinn_checks.checks.pcie.one_gpu import share_of_full
from djinn_checks.checks.settle import no_progress
from djinn_checks.faults.pcie.traffic import CEILING, make_evidence, make_series
from djinn_checks.models.open import open_model
from djinn_checks.params import PcieParams
from djinn_checks.systems.ring import RingSystem


@pytest.mark.parametrize(
    ("used", "moved", "expected"),
    [
        (100, 70, 70),  # all was seen, and enough moved
        (100, 0, 0),  # all was seen, and none of it moved
        (20, 0, None),  # what was not seen may have moved
        (20, 60, 60),  # enough moved, whatever was not seen
        (60, 5, 5),  # not enough, even if all that was not seen moved
    ],
)
def test_weights_that_were_not_seen_are_never_taken_for_weights_that_did_not_move(
    used: int, moved: int, expected: int | None
) -> None:
    system: Any = SimpleNamespace(model=SimpleNamespace(weight_bytes=100, unrouted_bytes=0), budget_bytes=50)
    seen: Any = SimpleNamespace(used_bytes=used, moved_bytes_lower_bound=moved, distinct_bytes_at_least=0)
    assert _certainly_moved(seen, None, system) == expected


@pytest.mark.parametrize(("answers", "count"), [([False], 1), ([True, False], 2), ([True, True], 3)])
def test_a_system_decodes_again_as_long_as_that_is_worth_it_and_three_times_at_most(
    answers: list[bool], count: int
) -> None:
    device = torch.device("cpu")
    model = open_model("random:tiny", dtype=torch.float32, device=device)
    params = PcieParams.create(model="random:tiny", device="cpu").model_copy(update={"duration_s": 0.05})
    spans: list[tuple[float, float]] = []

    def again(start_s: float, end_s: float) -> bool:
        spans.append((start_s, end_s))
        return answers[len(spans) - 1]

    system = RingSystem(model, device=device, budget_bytes=int(0.6 * model.weight_bytes))
    runs = decode_stretches(system, params, device, no_progress, again=again)
    assert len(runs) == count
    assert [(run.start_s, run.end_s) for run in runs][: len(spans)] == spans
    for run in runs:
        assert run.predicted_bytes is not None
        assert run.claimed_bytes == len(run.pass_ends_s) * run.predicted_bytes
        assert {row["compute_end_s"] <= run.end_s for row in run.timeline} == {True}


@pytest.mark.parametrize(
    ("rate", "share"),
    [(CEILING, 1.0), (0.85 * CEILING, 0.0), (0.3 * CEILING, None)],
    ids=["full", "slower all the time", "with rests"],
)
def test_a_link_that_rests_is_not_looked_at_again(rate: float, share: float | None) -> None:
    evidence = make_evidence(make_series(rate))
    found = share_of_full(evidence.params, evidence.link, evidence.series, evidence.start_s, evidence.end_s)
    assert found == share


def test_rows_about_windows_say_that_they_are_of_the_best_of_several_stretches() -> None:
    found = make_evidence()
    assert found.run is not None
    found = replace(found, run=replace(found.run, stretches=(0.645, 1.0)))
    rows = {row.name: row for row in judge_evidence(found)}
    assert (
        "the best of 2 stretches of decoding: full were 64.5%, 100.0% of their windows"
        in rows["rx_of_ceiling"].evidence
    )
