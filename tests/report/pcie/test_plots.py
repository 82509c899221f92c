"""Figures of the PCIe check say what was measured, and what was not."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.pcie.plots import plot_distribution, plot_flatline, plot_zoom
from djinn_checks.report.pcie.weight_rate import WEIGHTS
from djinn_checks.report.plots import SYSTEM, Plot, to_svg
from tests.report.pcie.samples import PLOTS, changed, encoded, ran, replayed


def drawn(plot: Plot) -> str:
    assert plot.figure is not None, plot.alt
    return to_svg(plot.figure)


@pytest.mark.parametrize("plot", PLOTS)
def test_every_figure_of_a_run_is_drawn_with_a_description(plot: Any) -> None:
    made = plot(ran())
    first = drawn(made)
    assert first.startswith("<svg ")
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


def test_an_outcome_without_measurements_still_has_its_figures_in_words() -> None:
    nothing = Outcome(check="pcie", status=Status.ERROR, summary="crashed")
    assert all(plot(nothing).figure is None for plot in PLOTS)


def test_weights_that_travel_encoded_are_drawn_above_the_wire_with_the_ceiling_between_them() -> None:
    outcome = encoded()
    plot = plot_flatline(outcome)
    drawn(plot)
    ceiling = outcome.measurements["link"]["ceiling_bytes_per_s"] / 1e9
    assert f"Decoded, that was {1.45 * ceiling:.1f} GB/s of weights, 1.450 of the ceiling" in plot.alt
    assert plot.figure is not None
    (axes,) = plot.figure.axes
    drawn_lines = {str(line.get_color()): max(map(float, line.get_ydata())) for line in axes.lines}  # type: ignore[arg-type]
    assert drawn_lines[SYSTEM] < 1.1 * ceiling < drawn_lines[WEIGHTS] < axes.get_ylim()[1]
    unseen = replace(outcome, measurements={**outcome.measurements, "figures": None})
    for other in (unseen, ran()):
        assert "Decoded" not in plot_flatline(other).alt


def test_the_timeline_of_encoded_weights_has_copies_decodes_and_computations() -> None:
    plot = plot_zoom(encoded())
    drawn(plot)
    assert "8 copies of 2.14 GB in all, their decodes into 3.23 GB of weights, and the computations." in plot.alt
    assert lanes(plot) == ["computation", "decodes", "copies"]
    assert lanes(plot_zoom(ran())) == ["computation", "copies"]


def lanes(plot: Plot) -> list[str]:
    assert plot.figure is not None
    return [text.get_text() for text in plot.figure.axes[-1].get_yticklabels()]
