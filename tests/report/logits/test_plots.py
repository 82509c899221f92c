"""Figures and tables say what the measurements say, in words too, and survive every number."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from djinn_checks.outcome import Outcome
from djinn_checks.report.logits.plots import plot_differences, plot_kl, plot_layers, plot_margins
from djinn_checks.report.logits.tables import tabulate_bytes, tabulate_prompts
from djinn_checks.report.plots import Plot, to_svg
from djinn_checks.report.tables import Html, format_share, render_params
from tests.report import samples

PLOTS = [plot_differences, plot_kl, plot_margins, plot_layers]
TABLES = samples.TABLES


@pytest.mark.parametrize("plot", PLOTS)
def test_a_figure_is_the_same_bytes_every_time_and_carries_no_date(plot: Callable[[Outcome], Plot]) -> None:
    first, again = plot(samples.failed()).figure, plot(samples.failed()).figure
    assert first is not None
    assert again is not None
    svg = to_svg(first)
    assert svg == to_svg(again)
    assert "<dc:date>" not in svg
    assert "<text" not in svg


@pytest.mark.parametrize("plot", PLOTS)
def test_without_measurements_a_sentence_stands_in_for_the_figure(plot: Callable[[Outcome], Plot]) -> None:
    assert plot(samples.crashed()) == Plot(None, "No logits were compared, so there is nothing to draw.")


@pytest.mark.parametrize("table", TABLES)
def test_without_data_a_sentence_stands_in_for_the_table(table: Callable[[Outcome], Html]) -> None:
    assert table(samples.crashed(params={}, environment={}, timings={})).startswith("<p>")


def test_bit_equal_logits_are_said_in_words() -> None:
    outcome = samples.passed()
    assert plot_kl(outcome).figure is None
    assert "exactly zero at every one of 900 positions" in plot_kl(outcome).alt
    assert plot_layers(outcome).alt == "Nothing differed, so no layer had to be searched."


def _texts(plot: Plot) -> str:
    assert plot.figure is not None
    return " ".join(text.get_text() for axes in plot.figure.axes for text in (*axes.texts, *axes.get_xticklabels()))


def test_logits_that_are_all_equal_are_drawn_as_a_spike_that_says_how_many_they_are() -> None:
    plot = plot_differences(samples.passed())
    assert "Prefill: all 44,236,800 logits equal the reference bit for bit" in plot.alt
    texts = _texts(plot)
    assert texts.count("100 % exactly 0") == 4  # system and floor, prefill and decode
    assert texts.count("44,236,800 logits") == 2
    assert texts.count("no logit\nbelow the reference") == texts.count("no logit\nabove the reference") == 2


def test_the_figure_of_differences_has_a_bin_for_zero_and_the_empty_decades_beside_it() -> None:
    for outcome in (samples.passed(), samples.failed()):
        plot = plot_differences(outcome)
        assert plot.figure is not None
        for axes in plot.figure.axes:
            labels = [label.get_text() for label in axes.get_xticklabels()]
            assert labels == [*(f"$-10^{{{n}}}$" for n in (4, 0, -4, -8)), "exactly 0",
                              *(f"$10^{{{n}}}$" for n in (-8, -4, 0, 4))]  # fmt: skip


def test_a_side_is_said_to_be_empty_only_if_it_is() -> None:
    found = samples.measurements()
    histogram = found["statistics"]["decode"]["difference_histogram"]
    histogram["negative"] = [1] * len(histogram["negative"])
    texts = _texts(plot_differences(samples.passed(measurements=found)))
    assert (texts.count("below the reference"), texts.count("above the reference")) == (1, 2)


def test_differences_that_are_not_a_number_are_said_to_be_missing_from_the_figure() -> None:
    found = samples.measurements(differing=True)
    found["statistics"]["prefill"]["difference_histogram"]["nan"] = 7
    assert (
        "7 differences are not a number and are not drawn" in plot_differences(samples.failed(measurements=found)).alt
    )


def test_a_margin_is_held_against_a_largest_difference_of_exactly_nothing() -> None:
    assert _texts(plot_margins(samples.passed())).count("largest difference (L2): exactly 0") == 2


def test_a_difference_is_described_where_it_begins() -> None:
    alt = plot_layers(samples.failed()).alt
    assert "First difference: pass 2, prompt 3, prefill position 17, layer model.layers.7." in alt
    assert "model.layers.7.mlp.up_proj.weight" in alt
    assert "3 of 6 prompts differ somewhere" in alt


def test_a_noisy_reference_is_drawn_although_the_system_is_equal() -> None:
    found = samples.measurements()
    found["floor"] = samples.measurements(differing=True)["statistics"]
    plot = plot_differences(samples.passed(measurements=found))
    assert plot.figure is not None
    assert "of the reference against itself 39,203,820 differ" in plot.alt


@pytest.mark.parametrize("value", [None, "NaN", "Infinity"])
def test_numbers_that_are_none_or_not_finite_break_no_figure_and_no_table(value: Any) -> None:
    found = samples.measurements(differing=True) | {"localisation": samples.localisation()}
    for phase in ("prefill", "decode"):
        statistics = found["statistics"][phase]
        statistics["l2_position_max"] = statistics["perplexity_ratio"] = statistics["margin"]["min"] = value
        statistics["kl"] = statistics["delta_p"] = dict.fromkeys(statistics["kl"] | statistics["delta_p"], value)
        statistics["kl_by_position"]["max"][3] = statistics["kl_by_position"]["mean"][3] = value
    found["localisation"]["relative_l2"][4][9] = value
    outcome = samples.failed(measurements=found)
    for plot in PLOTS:
        figure = plot(outcome).figure
        assert figure is not None
        to_svg(figure)
    for table in TABLES:
        assert "<table" in table(outcome)


def test_a_localisation_that_found_nothing_again_says_so() -> None:
    empty = {"first": None, "layers": ["logits"], "relative_l2": [[0.0]], "weights": ["a"], "reproduced": False}
    plot = plot_layers(samples.failed(measurements={**samples.measurements(), "localisation": empty}))
    assert plot.figure is None
    assert "did not come back" in plot.alt


def test_a_table_shows_bytes_exactly_and_unknown_ones_as_unknown() -> None:
    table = tabulate_bytes(samples.passed())
    assert "21.8 GB<small>21,791,431,296 bytes</small>" in table
    assert re.search(r"<td>unknown</td>", table)


def test_a_model_of_many_layers_does_not_swell_the_page() -> None:
    layers = ["embeddings", *(f"model.layers.{n}" for n in range(80)), "logits"]
    values = [[10.0 ** -(1 + (row * layer) % 7) for layer in range(82)] for row in range(30)]
    found = samples.measurements(differing=True)
    found["localisation"] = {**samples.localisation(), "layers": layers, "relative_l2": values}
    outcome = samples.failed(measurements=found)
    figures = [plot(outcome).figure for plot in PLOTS]
    assert (
        sum(len(to_svg(figure)) for figure in figures if figure) * 4 / 3 < 1_000_000
    )  # base64; the page may have 1.5 MB


def test_prompts_are_listed_by_number_each_on_one_line_and_cut_visibly() -> None:
    prompts = [{"index": 0, "tokens": 2, "text": "a\nb"}, {"index": 1, "tokens": 99, "text": "word " * 60}]
    table = tabulate_prompts(samples.passed(measurements={"prompts": prompts}))
    assert "<td>a b</td>" in table
    assert "word…</td>" in table


def test_a_parameter_that_was_not_given_is_not_called_unknown() -> None:
    table = render_params(samples.passed(params={"budget_gb": None}))
    assert "<td>not given</td>" in table
    assert "unknown" not in table


def test_a_share_is_whole_only_when_it_is_exactly_whole() -> None:
    shares = [0, 1e-9, 0.5, 0.999999, 1]
    assert [format_share(share) for share in shares] == ["0 %", "< 0.01 %", "50.00 %", "> 99.99 %", "100 %"]
    assert format_share(None) == "unknown"
    assert format_share(1.449) == "144.90 %", "weights that travel compressed come faster than the link"
