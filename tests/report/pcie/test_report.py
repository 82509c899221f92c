"""Figures and tables of the PCIe check say what was measured, and what was not."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.pcie.plots import plot_distribution, plot_flatline, plot_sweep, plot_zoom
from djinn_checks.report.pcie.tables import (
    tabulate_ceilings,
    tabulate_limit,
    tabulate_preflight,
    tabulate_traffic,
)
from djinn_checks.report.plots import Plot, to_svg
from djinn_checks.report.verdict import render_banner

TRACES = Path(__file__).parents[2] / "data" / "traces"
PLOTS = (plot_flatline, plot_zoom, plot_distribution, plot_sweep)
TABLES = (tabulate_ceilings, tabulate_limit, tabulate_preflight, tabulate_traffic)


@cache
def replayed(name: str) -> Outcome:
    from djinn_checks import PcieParams, check_pcie

    outcome: Outcome = check_pcie(PcieParams.create(device="cpu", trace=str(TRACES / f"{name}.csv.gz")))
    return Outcome.from_dict(json.loads(json.dumps(outcome.to_dict())))


def changed(name: str, **measurements: Any) -> Outcome:
    found = replayed(name)
    return replace(found, measurements={**found.measurements, **measurements})


def ran() -> Outcome:
    """A run with everything: passes, timeline, sweep, ceilings."""
    base = replayed("ring").measurements
    row = {"layer": "model.layers.0", "bytes": 10**8, "copy_start_s": 9.7, "copy_end_s": 9.8}
    timeline = [row | {"compute_start_s": 9.8, "compute_end_s": 9.81}] * 4
    copies = {"kind": "pcie", "spread": 0.01, "verified": True, "samples_s": [0.01] * 3, "direction": "h2d"}
    sweep = [
        copies | {"pinned": pinned, "nbytes": 2**20 * size, "bytes_per_s": rate}
        for pinned, rate in ((True, 55e9), (False, 9e9))
        for size in (1, 16, 512)
    ]
    return changed(
        "ring",
        zoom=base["zoom"] | {"timeline": timeline, "pass_ends_s": [9.9]},
        link=base["link"] | {"sweep": sweep, "ceilings": sweep[:1], "ceiling_after": sweep[2], "subject": "pcie"},
        passes={"count": 43, "mean_s": 0.2336, "median_s": 0.2336, "min_s": 0.2335, "p99_s": 0.2339, "open_s": 4.0},
        limit={"needed_bytes": 12.9e9, "seconds": 0.2334, "ratio": 0.999, "streamed_of_ceiling": 1.0},
        bytes={"passes": 43, "predicted": 557e9, "claimed": 558e9, "counted": 557e9, "wire": 600e9,
               "witnessed_a_pass": None},
        preflight=[{"name": "GPU", "found": "<GPU>", "wanted": "any", "ok": False, "remedy": "buy one"}],
    )  # fmt: skip


def drawn(plot: Plot) -> str:
    assert plot.figure is not None, plot.alt
    return to_svg(plot.figure)


@pytest.mark.parametrize("plot", PLOTS)
def test_every_figure_of_a_run_is_drawn_with_a_description(plot: Any) -> None:
    made = plot(ran())
    first = drawn(made)
    assert first.startswith("<?xml")
    assert len(made.alt) > 40
    assert drawn(plot(ran())) == first, "the same bytes every time"


def test_the_flatline_says_its_shares_and_what_was_lost() -> None:
    assert "100 % of windows above 20 GB/s" in plot_flatline(replayed("ring")).alt
    assert "0 % of windows above 20 GB/s" in plot_flatline(replayed("pageable")).alt
    windows = dict(replayed("ring").measurements["windows"])
    windows["rx_mb_per_s"] = [None, *windows["rx_mb_per_s"][1:]]
    windows["holes_s"] = [[0.0, 0.02]]
    holed = plot_flatline(changed("ring", windows=windows))
    assert "1 windows lost" in holed.alt
    drawn(holed)


def test_a_burst_is_seen_in_the_zoom() -> None:
    share = re.search(r"([\d.]+) % of them carry less than 1 GB/s", plot_zoom(replayed("bursty")).alt)
    assert share
    assert float(share[1]) > 20


def test_a_machine_without_counters_gets_a_sentence_and_its_timeline() -> None:
    zoom = dict(ran().measurements["zoom"]) | {"rx_mb_per_s": None}
    host = changed("ring", windows=None, zoom=zoom)
    assert plot_flatline(host).figure is None
    assert "no PCIe counters" in plot_flatline(host).alt
    assert plot_distribution(host).figure is None
    assert "4 copies" in plot_zoom(host).alt
    drawn(plot_zoom(host))


def test_windows_that_are_all_lost_are_no_figure_of_zeros() -> None:
    windows = dict(replayed("ring").measurements["windows"])
    windows["rx_mb_per_s"] = [None] * len(windows["rx_mb_per_s"])
    lost = changed("ring", windows=windows)
    assert plot_distribution(lost).figure is None
    drawn(plot_flatline(lost))


@pytest.mark.parametrize("table", TABLES)
def test_tables_are_whole_for_a_run_a_replay_and_an_outcome_without_measurements(table: Any) -> None:
    nothing = Outcome(check="pcie", status=Status.ERROR, summary="crashed")
    for outcome in (ran(), replayed("ring"), nothing):
        assert str(table(outcome)).startswith(("<div", "<p>"))
    assert "<caption>" in table(ran())
    assert "<GPU>" not in table(ran())


def test_claims_stand_beside_the_count_as_ratios() -> None:
    table = tabulate_traffic(ran())
    assert "1.0018" in table
    assert "Claimed by the system" in table
    assert "by the recorded truth" in tabulate_traffic(replayed("ring"))


def test_an_outcome_without_measurements_still_has_its_figures_in_words() -> None:
    nothing = Outcome(check="pcie", status=Status.ERROR, summary="crashed")
    assert all(plot(nothing).figure is None for plot in PLOTS)


def test_a_replay_and_a_host_link_are_marked_in_the_banner_and_a_gpu_is_not() -> None:
    assert "replay of a recorded trace</span>" in render_banner(replayed("ring"))
    link = dict(replayed("ring").measurements["link"])
    host = changed("ring", link=link | {"subject": "host memory", "label": "host-memory link: no GPU"})
    assert "host-memory link: no GPU</span>" in render_banner(host)
    assert 'class="subject"' not in render_banner(ran())
