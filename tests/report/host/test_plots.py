"""Figures of a host are read as they are, of one link and of many."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from djinn_checks.checks.fleet_criteria import tell_lost
from djinn_checks.faults.host.catalog import judge_made
from djinn_checks.faults.host.made import MadeHost, make_evidence
from djinn_checks.outcome import Outcome
from djinn_checks.report.host.plots import plot_host_traffic, plot_links


@pytest.fixture(scope="module")
def nine() -> Outcome:
    return judge_made(make_evidence(MadeHost(links=9)))


@pytest.mark.parametrize("count", [1, 8, 9])
def test_no_bar_or_share_lies_below_another_and_the_legend_lies_on_none(nine: Outcome, count: int) -> None:
    measured = {**nine.measurements, "links": nine.measurements["links"][:count]}
    outcome = replace(nine, measurements=measured)
    figure, alt = plot_links(outcome)
    assert figure is not None
    figure.canvas.draw()
    (legend,) = figure.legends
    for axes in figure.axes:
        assert not axes.get_window_extent().overlaps(legend.get_window_extent())
        bars = [bar.get_window_extent() for bar in axes.patches]
        low, high = axes.get_window_extent().intervalx
        assert (min(bar.x0 for bar in bars) - low) == pytest.approx(high - max(bar.x1 for bar in bars), abs=2)
        shares = [share.get_window_extent() for share in axes.texts]
        assert len(shares) == count
        assert not any(one.overlaps(other) for one, other in itertools.pairwise(shares))
        names = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert not any(one.overlaps(other) for one, other in itertools.pairwise(names))
    assert alt.startswith(f"{count} link{'s' * (count > 1)}, each alone")
    assert f"counters of {count} link{'s' * (count > 1)} saw" in plot_host_traffic(outcome).alt
    assert nine.summary.startswith("9 links:")


def test_processes_that_were_lost_alike_are_named_together() -> None:
    lost = {"one": "opening: no room", "two": "decoding: killed", "three": "opening: no room"}
    assert tell_lost(lost) == "one, three opening: no room; two decoding: killed"
    assert tell_lost({}) == ""
