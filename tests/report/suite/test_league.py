"""Systems of a suite stand beside each other, all against one ceiling."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from djinn_checks.outcome import Criterion, Outcome, Status
from djinn_checks.report.suite.index import render_index
from djinn_checks.report.suite.league import rank_systems, render_league
from djinn_checks.report.suite.results import render_results
from djinn_checks.suite.folder import write_index

REPORTS = Path(__file__).parents[3] / "reports" / "h200-2026-11-27"
PARAMS = {"model": "random:llama-2-7b", "dtype": "bfloat16", "budget_gb": 1.4}


def pcie(system: str, *, seconds: float, ceiling: float = 50e9, rate: float = 50_000.0, **params: Any) -> Outcome:
    return Outcome(
        check="pcie",
        status=Status.PASS,
        summary="",
        params={**PARAMS, "system": system, **params},
        measurements={
            "link": {"ceiling_bytes_per_s": ceiling, "label": "PCIe link of a GPU"},
            "windows": {"rx_mb_per_s": [rate, rate, None, 0.0], "duration_s": 10.0},
            "bytes": {"counted": 400e9},
            "passes": {"mean_s": seconds, "open_s": 3.0},
            "memory": {"peak_device_bytes": 2_000_000_000, "host_growth_bytes": None},
            "limit": {"needed_bytes": 10e9, "ratio": 0.5, "streamed_of_ceiling": 0.5},
        },
    )


def logits(system: str, decode: Status) -> Outcome:
    rows = [
        Criterion(
            name=name,
            title="",
            status=status,
            required=True,
            observed=0,
            comparison="<=",
            threshold=0,
            unit="elements",
            evidence="",
        )
        for name, status in (("prefill_bit_equal", Status.PASS), ("decode_bit_equal", decode))
    ]
    return Outcome(check="logits", status=decode, summary="", params={**PARAMS, "system": system}, criteria=tuple(rows))


def suite() -> dict[str, Outcome]:
    return {
        "pcie-slow": pcie("slow <b>", seconds=1.0, rate=10_000.0),
        "pcie-ring": pcie("ring", seconds=0.25, ceiling=40e9),
        "logits-ring": logits("ring", Status.PASS),
        "logits-slow": logits("slow <b>", Status.FAIL),
    }


def test_all_are_held_against_the_highest_ceiling_and_the_nearest_to_the_limit_comes_first() -> None:
    (league,) = rank_systems(suite())
    ring, slow = league.standings
    assert (ring.system, slow.system) == ("ring", "slow <b>")
    assert league.ceiling_bytes_per_s == 50e9
    assert abs(league.ceiling_spread - 0.25) < 1e-9
    assert ring.of_limit == 0.8  # 10 GB at 50 GB/s are 0.2 s; against its own ceiling it would be at the limit
    assert slow.of_limit == 0.2
    assert ring.full_windows == 2 / 3  # a lost window is not among them
    assert slow.full_windows == 0.0
    assert ring.bytes_per_s == 40e9


def test_bit_equality_comes_from_the_logits_runs_of_the_same_system_and_is_else_unknown() -> None:
    (league,) = rank_systems(suite())
    assert [standing.bit_equal for standing in league.standings] == [True, False]
    undecided = {**suite(), "logits-ring": logits("ring", Status.INCONCLUSIVE)}
    assert rank_systems(undecided)[0].standings[0].bit_equal is None
    other = {name: outcome for name, outcome in suite().items() if name != "logits-ring"}
    assert rank_systems(other)[0].standings[0].bit_equal is None


def test_runs_of_another_model_or_budget_are_another_league() -> None:
    assert rank_systems({"a": pcie("ring", seconds=1.0), "b": pcie("other", seconds=1.0, budget_gb=3.0)}) == []
    assert rank_systems({"a": pcie("ring", seconds=1.0), "b": pcie("ring", seconds=2.0)}) == []
    assert render_league("s", {}) is None


def test_the_table_stands_on_the_front_page_on_a_page_of_its_own_and_in_the_results(tmp_path: Path) -> None:
    outcomes = suite()
    for page in (render_index("s", outcomes, {}), render_league("s", outcomes) or ""):
        assert "slow &lt;b&gt;" in page
        assert "<b>" not in page
        assert "80.0%" in page
    assert "| ring | PASS | 80.0% | 66.7% | 40.0 GB/s | 250 ms | yes | 2 GB | unknown | 3.00 s |" in render_results(
        ".", outcomes
    )
    for name in ("pcie-ring", "pcie-ramtorch"):
        shutil.copy(REPORTS / f"{name}.outcome.json", tmp_path)
    write_index(tmp_path)
    assert "League of systems" in (tmp_path / "league.html").read_text()
