"""Threads that a system leaves running are named in the outcome; those that end are not."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from djinn_checks.checks.run import run_check
from djinn_checks.outcome import Outcome, Status

PARAMS = SimpleNamespace(check="logits", device="cpu", system="ring", model="random:tiny", model_dump=dict)


@pytest.mark.parametrize("crashes", [False, True])
def test_a_thread_that_goes_on_is_named_whatever_became_of_the_check(crashes: bool) -> None:
    end = threading.Event()

    def work(device: Any, facts: Any) -> Outcome:
        threading.Thread(target=end.wait, name="prefetcher").start()
        threading.Thread(target=end.wait, args=(0.05,), name="about to end").start()
        if crashes:
            raise KeyError("lm_head.weight")
        return Outcome(check="logits", status=Status.PASS, summary="", **facts)

    outcome = run_check("logits", PARAMS, work)
    end.set()
    assert outcome.environment["system"]["threads_left"] == ["prefetcher"]
    assert outcome.environment["system"]["name"] == "ring"
    assert outcome.status is (Status.ERROR if crashes else Status.PASS)


def test_a_check_that_leaves_none_says_nothing_of_threads() -> None:
    outcome = run_check(
        "logits", PARAMS, lambda device, facts: Outcome(check="logits", status=Status.PASS, summary="", **facts)
    )
    assert "threads_left" not in (outcome.environment["system"] or {})
