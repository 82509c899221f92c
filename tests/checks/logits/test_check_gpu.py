"""On a GPU the link's counters hold every forward: who streams passes, and who decodes from a second copy does not."""

from __future__ import annotations

from typing import Any

import pytest

from djinn_checks.checks.logits.check import check_logits
from djinn_checks.faults.logits import liars
from djinn_checks.outcome import Outcome, Status
from djinn_checks.params import LogitsParams
from djinn_checks.systems.base import find_system

pytestmark = pytest.mark.gpu


def run(system: Any) -> Outcome:
    params = LogitsParams.create(
        model="random:llama-2-7b",
        device="cuda",
        dtype="float16",
        budget_fraction=0.25,
        prompts=2,
        max_prompt_tokens=64,
        decode_tokens=2,
    )
    return check_logits(params, system_factory=system)


@pytest.mark.parametrize("name", ["ring", "ramtorch", "accelerate"])
def test_a_system_that_streams_does_so_in_every_forward(name: str) -> None:
    outcome = run(find_system(name))
    assert outcome.criterion("streamed_in_every_forward").status is Status.PASS
    assert outcome.status is Status.PASS, outcome.summary


def test_a_system_that_decodes_from_a_second_copy_is_caught_by_witness_and_counters() -> None:
    outcome = run(liars.stream_when(liars.in_prefill))
    for name in ("weights_streamed", "streamed_in_every_forward"):
        assert outcome.criterion(name).status is Status.FAIL
        assert "decode step" in outcome.criterion(name).reason


def test_answers_from_a_dictionary_are_caught_by_the_counters() -> None:
    assert run(liars.AnswersFromMemory).criterion("streamed_in_every_forward").status is Status.FAIL
