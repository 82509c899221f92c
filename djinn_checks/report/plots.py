"""Figures without global state: a palette, axes in one style, and SVG that is the same bytes every time.

No pyplot: a figure is a value that a function returns, and nothing is left open behind it.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, Formatter, LogFormatter

from djinn_checks.report.svg import shorten

SYSTEM = "#0072B2"
"""What the system did. Palette of Okabe and Ito: told apart with any colour vision."""
FLOOR = "#767676"
"""The noise floor: the reference against itself."""
MARK = "#D55E00"
"""A value to look at: a threshold, the largest, the first."""
EQUAL = "#E3E3DC"
"""No difference at all."""
INK = "#1F2328"
_GRID = "#D9D9D4"
_NARROW, _FLATTER = 4.0, 0.85
"""Inches of a figure for a phone, which shows a point of it as 1.2 pixels; and the share of its height that is kept."""
_NARROW_TITLE, _NARROW_LABEL, _NARROW_TICKS = 38, 18, 42
"""Letters in so narrow a figure: in a line of a title, in a name at an axis or in a legend of two columns, and beside
each other along an axis."""
_READABLE, _LONG_NAME = 9.0, 8.0
"""Points of the smallest letters there, and of names that are longer than a line and cannot be broken."""
CELL = "cell"
"""The gid of a text that stands in a cell, and is left out where that is too narrow for it."""
_MARKUP = re.compile(r"[${}^\\]")
_FORMULA, _POWER = re.compile(r"\$\\mathdefault\{(.*)\}\$"), re.compile(r"\^\{(.*?)\}")
_RAISED = str.maketrans("0123456789-\N{MINUS SIGN}", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁻")


class Plot(NamedTuple):
    """A figure with its description in words, computed from the same data."""

    figure: Figure | None
    """None where there is nothing to draw: then the description says all."""
    alt: str


def make_figure(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = 9.0,
    height: float = 3.6,
    height_ratios: Sequence[float] | None = None,
    share_x: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Return an empty figure of `width` by `height` inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    grid = figure.subplots(rows, columns, squeeze=False, height_ratios=height_ratios, sharex=share_x)
    panels = grid.ravel().tolist()
    for axes in panels:
        style_axes(axes)
    return figure, panels


def style_axes(axes: Axes) -> None:
    """Make axes quiet: only the left and lower spine, and a pale grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FLOOR)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis="y", color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def set_title(axes: Axes, title: str) -> None:
    """Put a title over the left end of the axes."""
    axes.set_title(title, loc="left", fontsize=10.5, color=INK, fontweight="bold")


def to_svg(figure: Figure) -> str:
    """Return the figure as SVG text: no date, fixed ids, glyphs as paths so that no font is needed."""
    text = io.StringIO()
    _write_powers_plainly(figure)
    with _laid_out(figure), mpl.rc_context({"svg.hashsalt": "djinn-checks", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    return shorten(text.getvalue())


@contextlib.contextmanager
def _laid_out(figure: Figure) -> Iterator[None]:
    """Lay the figure out and leave it so: saving a figure that has an engine of layout, be it one that does nothing,
    would draw everything once more before, only to lay it out.
    """
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    with mpl.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)  # the settings say which, and they say none
    try:
        yield
    finally:
        figure.set_layout_engine(engine)


def _write_powers_plainly(figure: Figure) -> None:
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for found, use in (
                (axis.get_major_formatter(), axis.set_major_formatter),
                (axis.get_minor_formatter(), axis.set_minor_formatter),
            ):
                if isinstance(found, LogFormatter):
                    use(_PlainPowers(found))


class _PlainPowers(Formatter):
    """Writes 10⁻⁷ with letters that the font has: matplotlib's formulas take a fifth of the time of a figure."""

    def __init__(self, formulas: LogFormatter) -> None:
        self._formulas = formulas

    def set_axis(self, axis: Any) -> None:
        super().set_axis(axis)
        self._formulas.set_axis(axis)

    def set_locs(self, locs: Any) -> None:
        self._formulas.set_locs(locs)

    def __call__(self, x: float, pos: int | None = None) -> str:
        formula = _FORMULA.sub(r"\1", str(self._formulas(x, pos)))
        return _POWER.sub(lambda found: found[1].translate(_RAISED), formula).replace(r"\times", "×")


def to_narrow_svg(figure: Figure) -> str:
    """Return the figure as it fits a phone: panels beneath each other, long titles broken, the letters as large.

    The figure itself is narrow afterwards.
    """
    width, height = figure.get_size_inches()
    panels = [axes for axes in figure.axes if axes.get_subplotspec() is not None]
    grid = panels[0].get_gridspec() if panels else None
    columns = grid.ncols if grid is not None else 1
    if columns > 1:
        below = GridSpec(len(panels), 1, figure=figure)
        for place, axes in enumerate(panels):
            axes.set_subplotspec(below[place])
    figure.set_size_inches(min(width, _NARROW), columns * height * _FLATTER)
    for axes in figure.axes:
        _narrow_axes(axes, figure.dpi)
    _narrow_legends(figure)
    for text in figure.findobj(Text):
        if isinstance(text, Text) and float(text.get_fontsize()) < _LONG_NAME:
            text.set_fontsize(_READABLE)
    _leave_out_wide_words(figure)
    return to_svg(figure)


def _narrow_axes(axes: Axes, dpi: float) -> None:
    """Break what is written over the axes and at their ticks, and leave out every other number that has no room."""
    title = axes.get_title(loc="left")
    for text in axes.findobj(lambda item: isinstance(item, Text) and bool(title) and item.get_text() == title):
        if isinstance(text, Text):
            text.set_text(textwrap.fill(title, _NARROW_TITLE))
    _narrow_names(axes, dpi)
    labels = axes.get_xticklabels()
    if axes.xaxis.get_ticks_position() == "top":
        for label in labels:
            label.set(rotation=90, ha="left", va="center", rotation_mode="anchor")
    elif isinstance(axes.xaxis.get_major_locator(), FixedLocator) and not any(label.get_rotation() for label in labels):
        _thin_out(axes, [label.get_text() for label in labels])


def _narrow_names(axes: Axes, dpi: float) -> None:
    """Break the names at the left over two lines if they are long and there is room, or else make them smaller."""
    names = [label.get_text() for label in axes.get_yticklabels()]
    if max((len(name) for name in names), default=0) <= _NARROW_LABEL:
        return
    broken = [textwrap.wrap(name, _NARROW_LABEL, break_long_words=False) for name in names]
    longest = max(len(line) for lines in broken for line in lines)
    pitch = axes.get_window_extent().height / len(names) * 72 / dpi
    if max(map(len, broken)) * _READABLE * 1.2 <= pitch and longest <= _NARROW_LABEL:
        axes.set_yticks(axes.get_yticks(), ["\n".join(lines) for lines in broken])
    else:
        axes.tick_params(labelsize=_LONG_NAME)


def _thin_out(axes: Axes, labels: Sequence[str]) -> None:
    """Keep as many of the labels along the x axis as have room: each so many-th, counted from the one in the middle."""
    room = sum(len(_MARKUP.sub("", label)) + 1 for label in labels)
    step, middle = math.ceil(room / _NARROW_TICKS), len(labels) // 2
    kept = [label if (place - middle) % step == 0 else "" for place, label in enumerate(labels)]
    axes.set_xticks(axes.get_xticks(), kept)


def _narrow_legends(figure: Figure) -> None:
    """Put legends outside of the axes, which have no room for them, in as many columns as fit."""
    for legend in [*figure.legends, *(axes.get_legend() for axes in figure.axes)]:
        if legend is None:
            continue
        handles, names = legend.legend_handles, [text.get_text() for text in legend.get_texts()]
        columns = 2 if max(map(len, names), default=0) <= _NARROW_LABEL else 1
        side: Literal["outside lower left", "outside upper left"] = "outside upper left"
        if legend in figure.legends:
            side = "outside lower left"
        legend.remove()
        shown = [handle for handle in handles if handle is not None]
        figure.legend(shown, names, loc=side, ncols=columns, frameon=False, fontsize=_READABLE)


def _leave_out_wide_words(figure: Figure) -> None:
    """Hide the words in cells that are narrower than they are."""
    words = [(axes, text) for axes in figure.axes for text in axes.texts if text.get_gid() == CELL]
    engine = figure.get_layout_engine()
    if words and engine is not None:
        engine.execute(figure)
    for axes, text in words:
        left, right = axes.transData.transform([(0, 0), (1, 0)])[:, 0]
        text.set_visible(text.get_window_extent().width <= right - left)
