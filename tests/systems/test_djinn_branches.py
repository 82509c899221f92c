"""Djinn as it is published: one branch refuses in its own words, the other fails by its wrong bytes first."""

from __future__ import annotations

from typing import Any

import pytest

from djinn_checks import LogitsParams, PcieParams, check_logits, check_pcie
from djinn_checks.outcome import Outcome, Status
from tests.systems.djinn_branches import FractionalRing, WeightRingBuffer, WeightStreamer, install_branch

SHARED: dict[str, Any] = {"model": "random:tiny", "system": "djinn", "device": "cpu", "budget_fraction": 0.8}


def run_logits() -> Outcome:
    return check_logits(
        LogitsParams(**SHARED, prompts=["one", "two words here"], max_prompt_tokens=16, decode_tokens=2)
    )


def run_pcie() -> Outcome:
    return check_pcie(PcieParams(**SHARED, dtype="float32", duration_s=1.0, sweep=False))


class NeedsAnAccelerator(WeightStreamer):
    """What `torch` says where a stream is made without a GPU."""

    def __init__(self, *_: Any) -> None:
        raise RuntimeError("Found no NVIDIA driver on your system")


REFUSALS = {
    "the ring is smaller than the model": (WeightRingBuffer, WeightStreamer, "but ring buffer capacity is only 0.0GB"),
    "there is no accelerator": (FractionalRing, NeedsAnAccelerator, "Found no NVIDIA driver on your system"),
}


@pytest.mark.parametrize("run", [run_logits, run_pcie])
@pytest.mark.parametrize("reason", REFUSALS)
def test_a_system_that_refuses_is_heard_in_its_own_words(
    reason: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, streamer, words = REFUSALS[reason]
    install_branch(monkeypatch, ring, streamer)
    outcome = run()
    assert outcome.status is Status.INCONCLUSIVE
    assert outcome.failure is None
    (row,) = outcome.criteria
    assert (row.name, row.status) == ("system_available", Status.INCONCLUSIVE)
    assert row.reason.startswith("system 'djinn' refused, in its own words: ")
    assert words in row.reason
    assert words in outcome.summary


def test_blocks_that_stay_where_they_were_copied_once_fail_by_their_bytes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_branch(monkeypatch, FractionalRing)
    outcome = run_logits()
    assert outcome.status is Status.FAIL
    failed = [row.name for row in outcome.criteria if row.status is Status.FAIL]
    assert failed[0] == "weights_at_use"
    assert {"prefill_bit_equal", "decode_bit_equal"} <= set(failed)
    assert "weights_at_use" in outcome.summary


@pytest.mark.parametrize("error", [TypeError("None + 1"), KeyError("layers"), RuntimeError()])
def test_a_mistake_of_a_system_is_no_refusal(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaks(WeightStreamer):
        def start(self) -> None:
            raise error

    install_branch(monkeypatch, FractionalRing, Breaks)
    outcome = run_logits()
    assert outcome.status is Status.ERROR
    assert outcome.failure is not None
    assert outcome.failure.type == type(error).__name__
