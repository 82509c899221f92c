"""A move stands in the table by both clocks, and one that a clock does not know is no number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from djinn_checks.report.agents.tables import tabulate_gain, tabulate_sleeps
from djinn_checks.report.load import load_outcome

AGENTS = Path(__file__).parents[2] / "data" / "outcomes" / "agents.outcome.json"


def table(**timings: Any) -> str:
    outcome = load_outcome(AGENTS)
    return str(tabulate_sleeps(replace(outcome, timings=outcome.timings | timings)))


def test_a_move_is_shown_by_the_servers_clock_and_by_the_counters() -> None:
    nbytes = load_outcome(AGENTS).measurements["sleeps"][0]["kv_bytes"]
    moves = {"out": [[nbytes / 55e9, nbytes / 54e9]], "in": [[nbytes / 55e9, nbytes / 55e9]]}
    text = table(ceilings_bytes_per_s={"out": 55e9, "in": 55e9}, moves_on_link_s=moves)
    assert "28.4 ms, 0.641 GB/s (1.2%); on the link 54 GB/s (98.2%)" in text
    assert "29 ms, 0.628 GB/s (1.1%); on the link 55 GB/s (100.0%)" in text


@pytest.mark.parametrize("counted", [{}, {"moves_on_link_s": {"out": None, "in": None}}])
def test_without_counters_there_is_only_the_servers_word(counted: dict[str, Any]) -> None:
    text = table(**counted)
    assert "GB/s" in text
    assert "; on the link" not in text


def test_a_server_that_says_nothing_leaves_it_unknown() -> None:
    sleeps = [sleep | {"swap": None, "restore": None} for sleep in load_outcome(AGENTS).timings["sleeps"]]
    assert table(sleeps=sleeps).count("unknown") >= 2 * len(sleeps)


def test_what_users_gain_is_said_beside_what_filled_the_device() -> None:
    outcome = load_outcome(AGENTS)
    assert "unknown" not in tabulate_gain(replace(outcome, timings=outcome.timings | {"crowd": None}))
    facts = {"looks": 100, "near_budget": 0.92, "median_of_budget": 0.95, "left_for_room": 370, "left_by_timer": 2,
             "left_when_told": 0}  # fmt: skip
    timings = outcome.timings | {
        "sleeps": [{**outcome.timings["sleeps"][0], "wake_s": 0.06}],
        "wake_cold_s": [0.08],
        "crowd": {**outcome.timings["crowd"], "pressure": facts},
    }
    text = tabulate_gain(replace(outcome, timings=timings))
    assert "20 ms, 25%" in text
    assert "370 of 372" in text
    assert "92% of 100 looks" in text
    assert "Lost by a restore" in tabulate_gain(replace(outcome, timings=timings | {"wake_cold_s": [0.05]}))
