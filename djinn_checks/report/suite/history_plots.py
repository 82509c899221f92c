"""Each criterion of a run over time, one panel a criterion, one line a machine, and where it changed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from djinn_checks.outcome import Status
from djinn_checks.report.plots import FLOOR, INK, MARK, SYSTEM, Plot, make_figure, set_title
from djinn_checks.report.suite.history import Point, Series
from djinn_checks.units import GB

_COLOURS = (SYSTEM, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Palette of Okabe and Ito, without the colour of marks. Further machines begin anew, with another shape."""
_SHAPES = ("o", "s", "D", "^", "v", "P")
_MOST_TICKS = 6
_COLUMNS, _WIDTH, _HEIGHT, _ROOM = 2, 11.0, 2.0, 0.9
"""Panels beside each other, and inches."""
_LONGEST_TITLE = 58
_LETTERS = 8
"""Points of the labels: on a phone they are as small as they may be."""

Key = tuple[str, str]
"""Folder and start of a run: what panels have in common."""
Places = Mapping[Key, tuple[int, Point]]
"""Where each run stands on the axis of time, and a point of it."""


def plot_run(run: str, rows: Sequence[Sequence[Series]], machines: Sequence[str]) -> Plot:
    """Return the criteria of one run.

    Args:
        run: its name.
        rows: of each criterion, its series by machine.
        machines: all labels, in the order of the colours.
    """
    if not rows:
        return Plot(None, f"{run}: no figure of it changed from run to run.")
    order = _order(series for row in rows for series in row)
    columns = min(_COLUMNS, len(rows))
    height = _HEIGHT * math.ceil(len(rows) / columns) + _ROOM
    figure, panels = make_figure(math.ceil(len(rows) / columns), columns, width=_WIDTH, height=height)
    for axes, row in zip(panels, rows, strict=False):
        _draw(axes, row, order, machines)
    for axes in panels[len(rows) :]:
        axes.set_axis_off()
    here = [label for label in machines if any(series.machine == label for row in rows for series in row)]
    handles = [*(_legend_of(machines, label) for label in here), *_LEGEND]
    figure.legend(handles=handles, loc="outside upper left", fontsize=9, ncols=3, frameon=False)
    return Plot(figure, _describe(run, rows))


_LEGEND = (
    Line2D([], [], color=FLOOR, linewidth=1.0, linestyle=(0, (4, 3)), label="threshold"),
    Line2D([], [], color=MARK, marker="X", linestyle="", markersize=7, label="not PASS"),
    Line2D([], [], color=MARK, linewidth=2, marker=">", markersize=5, label="marked change"),
)


def _legend_of(machines: Sequence[str], label: str) -> Line2D:
    colour, shape = _look(machines, label)
    return Line2D([], [], color=colour, marker=shape, markersize=5, linewidth=1.0, label=label)


def _look(machines: Sequence[str], label: str) -> tuple[str, str]:
    place = machines.index(label)
    return _COLOURS[place % len(_COLOURS)], _SHAPES[(place + place // len(_COLOURS)) % len(_SHAPES)]


def _order(every: Iterable[Series]) -> dict[Key, tuple[int, Point]]:
    """Return the place of each run on the axis of time, and a point of it: even steps, whatever lies between them."""
    points: dict[Key, Point] = {}
    for series in every:
        for point in series.points:
            points.setdefault(_key(point), point)
    ordered = sorted(points.items(), key=lambda item: (item[1].when, item[0]))
    return {key: (place, point) for place, (key, point) in enumerate(ordered)}


def _key(point: Point) -> Key:
    return point.folder, point.outcome.started_at


def _draw(axes: Axes, row: Sequence[Series], order: Places, machines: Sequence[str]) -> None:
    said = [series.row for series in row if series.row is not None]  # the check as a whole has none, and no figure
    factor, unit = _scale(said[0].unit)
    for series in row:
        colour, shape = _look(machines, series.machine)
        points = [(order[_key(point)][0], point) for point in series.points if point.value is not None]
        places, values = [place for place, _ in points], [factor * (point.value or 0.0) for _, point in points]
        axes.plot(places, values, color=colour, marker=shape, markersize=4, linewidth=1.0)
        wrong = [(x, y) for (x, point), y in zip(points, values, strict=True) if point.status is not Status.PASS]
        axes.plot([x for x, _ in wrong], [y for _, y in wrong], color=MARK, marker="X", markersize=7, linestyle="")
        _draw_shifts(axes, series, order, factor, colour)
    _draw_threshold(axes, row, factor)
    _name_times(axes, order)
    set_title(axes, textwrap.shorten(said[0].title, _LONGEST_TITLE, placeholder=" …"))
    axes.set_ylabel(unit, fontsize=_LETTERS)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.margins(x=0.04, y=0.18)


def _scale(unit: str) -> tuple[float, str]:
    """Return by what figures are multiplied to be drawn, and the unit that they then have."""
    if unit.startswith("share"):
        return 100.0, f"%{unit.removeprefix('share')}"
    return (1 / GB, f"GB{unit.removeprefix('bytes')}") if unit.startswith("bytes") else (1.0, unit)


_ARROW = {"arrowstyle": "-|>", "color": MARK, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}


def _draw_shifts(axes: Axes, series: Series, order: Places, factor: float, colour: str) -> None:
    places = [order[_key(point)][0] for point in series.points]
    bounds = [0, *(shift.at for shift in series.shifts), len(places)]
    levels = [*(shift.before for shift in series.shifts), *(shift.after for shift in series.shifts[-1:])]
    for level, start, end in zip(levels, bounds, bounds[1:], strict=False):
        ends = [places[start], places[end - 1]]
        axes.plot(ends, [factor * level] * 2, color=colour, linewidth=5, alpha=0.3, solid_capstyle="butt", zorder=1)
    for shift in series.shifts:
        middle = (places[shift.at - 1] + places[shift.at]) / 2
        tip, tail = (middle, factor * shift.after), (middle, factor * shift.before)
        axes.annotate("", xy=tip, xytext=tail, arrowprops=_ARROW)


def _draw_threshold(axes: Axes, row: Sequence[Series], factor: float) -> None:
    """Draw the threshold where it does not squeeze the figures: not more than three times their span away."""
    values = [factor * value for series in row for value in series.values]
    known = {point.threshold for series in row for point in series.points if point.threshold is not None}
    span = max(values) - min(values)
    for level in (factor * threshold for threshold in known):
        away = max(min(values) - level, level - max(values), 0.0)
        if away <= 3 * span:
            axes.axhline(level, color=FLOOR, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)


def _name_times(axes: Axes, order: Places) -> None:
    step = math.ceil(len(order) / _MOST_TICKS)
    shown = [(place, point) for place, point in order.values() if place % step == 0]
    labels = [f"{point.outcome.started_at[5:10]}\n{point.commit[:7]}" for _, point in shown]
    axes.set_xticks([place for place, _ in shown], labels)
    axes.tick_params(axis="x", labelsize=_LETTERS, colors=INK)
    axes.tick_params(axis="y", labelsize=_LETTERS)


def _describe(run: str, rows: Sequence[Sequence[Series]]) -> str:
    every = [series for row in rows for series in row]
    marks = sum(len(series.shifts) for series in every)
    count = max(len(series.points) for series in every)
    return (
        f"{run}: {len(rows)} criteri{'on' if len(rows) == 1 else 'a'} whose figures differ from run to run, "
        f"up to {count} runs a machine; "
        f"{marks or 'no'} marked change{'' if marks == 1 else 's'}. Date and commit stand below; "
        "the steps between runs are even, whatever time lies between them."
    )
