"""On a phone, whose screen a figure is as wide as, its letters can be read and nothing lies over anything else."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from djinn_checks.report.faults.plots import plot_counts, plot_matrix
from djinn_checks.report.logits.plots import plot_differences, plot_kl, plot_layers, plot_margins
from djinn_checks.report.pcie.plots import plot_flatline
from djinn_checks.report.plots import Plot, make_figure, to_narrow_svg
from tests.report import samples
from tests.report.faults.samples import fault, found
from tests.report.pcie.samples import encoded

_PIXELS_OF_A_FIGURE = 340
"""A phone is 400 wide, and a page leaves some at either side."""
_SMALLEST_PIXELS = 9.0
_CRITERIA = (
    "weights_streamed",
    "weights_at_use",
    "prefill_bit_equal",
    "decode_bit_equal",
    "l2",
    "budget",
    "claims",
    "x",
)


def _faults() -> Plot:
    rows = [
        fault(f"a_fault_of_rather_a_long_name_{n}", caught_by=name, alarms=[name]) for n, name in enumerate(_CRITERIA)
    ]
    return plot_matrix(found(*rows), "logits")


def _with_legend() -> Plot:
    figure, (axes,) = make_figure(width=10)
    for number in range(4):
        axes.plot([0, number], label=f"series {number} of four")
    axes.legend(ncols=4)
    return Plot(figure, "")


PLOTS: dict[str, Callable[[], Plot]] = {
    "differences": lambda: plot_differences(samples.failed()),
    "kl": lambda: plot_kl(samples.failed()),
    "layers": lambda: plot_layers(samples.failed()),
    "margins": lambda: plot_margins(samples.passed()),
    "counts": lambda: plot_counts(found(fault("a"), fault("b", verdict="MISSED", alarms=[]))),
    "matrix": _faults,
    "legend": _with_legend,
    "flatline": lambda: plot_flatline(encoded()),
}


def _written(figure: Figure) -> list[Text]:
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("name", PLOTS)
def test_a_narrow_figure_can_be_read_and_keeps_within_its_edges(name: str) -> None:
    figure = PLOTS[name]().figure
    assert figure is not None
    to_narrow_svg(figure)

    pixels_of_a_point = _PIXELS_OF_A_FIGURE / (figure.get_size_inches()[0] * 72)
    small = [
        text.get_text()
        for text in _written(figure)
        if float(text.get_fontsize()) * pixels_of_a_point < _SMALLEST_PIXELS
    ]
    assert small == []
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
    figure.draw_without_rendering()  # the extents of the letters are those of the last picture, and of its resolution
    for words in (text for axes in figure.axes for text in axes.texts if text.get_visible()):
        assert words.get_window_extent().x1 <= figure.bbox.x1, words.get_text()
    for axes in (axes for axes in figure.axes if axes.get_subplotspec() is not None):
        assert axes.bbox.width > 0.3 * figure.bbox.width, "the data has room"
        boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text().strip()]
        if len(boxes) > 1 and not any(label.get_rotation() % 90 for label in axes.get_xticklabels()):
            assert all(left.x1 <= right.x0 + 1 for left, right in itertools.pairwise(boxes))


def test_words_in_cells_are_left_out_where_they_have_no_room_and_stay_where_they_have() -> None:
    crowded, roomy = _faults().figure, plot_matrix(found(fault("a")), "logits").figure
    assert crowded is not None
    assert roomy is not None
    for figure in (crowded, roomy):
        to_narrow_svg(figure)
    assert "named" not in [text.get_text() for text in _written(crowded)]
    assert "named" in [text.get_text() for text in _written(roomy)]
