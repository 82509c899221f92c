"""Figures without global state: a palette, axes in one style, and SVG that is the same bytes every time.

No pyplot: a figure is a value that a function returns, and nothing is left open behind it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    with mpl.rc_context({"svg.hashsalt": "djinn-checks", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    return text.getvalue()
