"""Figures of the logits check, from an outcome's measurements alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from djinn_checks.measurements.logits import KlByPosition, LocalisationFacts, LogitsStatistics, read
from djinn_checks.outcome import Outcome, format_value
from djinn_checks.report.logits.phases import measured_phases
from djinn_checks.report.plots import EQUAL, FLOOR, INK, MARK, SYSTEM, Plot, make_figure, set_title
from djinn_checks.report.tables import as_number, format_share, name_some

Floats = NDArray[np.float64]

_NOT_COMPARED = "No logits were compared, so there is nothing to draw."
_NOTHING_DIFFERED = "Nothing differed, so no layer had to be searched."
_CELL_DPI = 200
"""The cells are a picture inside the SVG: 30 prompts by 82 layers as paths would be 1.5 MB."""
_ZERO_GAP = 3.0
"""Decades between the exact zero and the smallest difference that is drawn."""
_KL_SERIES: tuple[tuple[Literal["max", "mean"], dict[str, Any]], ...] = (
    ("max", {"linestyle": "none", "marker": "o", "markersize": 5, "markerfacecolor": "none", "color": MARK}),
    ("mean", {"linestyle": "none", "marker": "s", "markersize": 2.5, "color": SYSTEM}),
)
"""The largest as a ring, so that a mean of one prompt shows inside it."""


def plot_differences(outcome: Outcome) -> Plot:
    """How large the differences are, system minus reference: the exact zeros apart, then log10 on both sides."""
    phases = measured_phases(outcome)
    if not phases:
        return _nothing(_NOT_COMPARED)
    words = " ".join(_describe_differences(phase, system, floor) for phase, system, floor in phases)
    figure, panels = make_figure(1, len(phases), width=10, height=3.8)
    for axes, (phase, system, floor) in zip(panels, phases, strict=True):
        _draw_differences(axes, phase, system, floor)
    figure.legend(
        handles=[Patch(color=SYSTEM, label="system − reference"), Patch(color=FLOOR, label="noise floor (A/A)")],
        loc="outside lower center", ncols=2, frameon=False, fontsize=9,
    )  # fmt: skip
    return Plot(figure, words)


def plot_kl(outcome: Outcome) -> Plot:
    """KL divergence position by position: mean and largest over the prompts."""
    phases = measured_phases(outcome)
    if not phases:
        return _nothing(_NOT_COMPARED)
    words = " ".join(_describe_kl(phase, system["kl_by_position"]) for phase, system, _ in phases)
    if all(_peak(system["kl_by_position"]) == 0 for _, system, _ in phases):
        return _nothing(words)
    figure, panels = make_figure(1, len(phases), width=10)
    for axes, (phase, system, _) in zip(panels, phases, strict=True):
        _draw_kl(axes, phase, system["kl_by_position"])
    points = [Line2D([], [], label=f"{name} over the prompts, where not 0", **style) for name, style in _KL_SERIES]
    figure.legend(handles=points, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return Plot(figure, words)


def plot_margins(outcome: Outcome) -> Plot:
    """How far apart ranks k and k + 1 are in the reference: smaller differences cannot change the top k."""
    phases = measured_phases(outcome)
    if not phases:
        return _nothing(_NOT_COMPARED)
    k = outcome.params.get("top_k", "k")
    figure, panels = make_figure(1, len(phases), width=10)
    for axes, (phase, system, _) in zip(panels, phases, strict=True):
        _draw_margins(axes, phase, system, k)
    words = " ".join(_describe_margins(phase, system, k) for phase, system, _ in phases)
    return Plot(figure, words)


def plot_layers(outcome: Outcome) -> Plot:
    """Where the difference begins: relative L2 norm at each layer's output, prompt by prompt."""
    found = read(outcome.measurements).get("localisation")
    if not found:
        return Plot(None, _NOTHING_DIFFERED if measured_phases(outcome) else _NOT_COMPARED)
    words = _describe_layers(found)
    values = np.array([[as_number(value) for value in row] for row in found["relative_l2"]], dtype=float)
    if values.size == 0 or not (values > 0).any():
        return Plot(None, words)
    figure, (axes,) = make_figure(width=10, height=min(8.0, 2.4 + 0.22 * len(values)))
    _draw_layers(figure, axes, values, found)
    return Plot(figure, words)


def _nothing(words: str) -> Plot:
    return Plot(None, words)


def _unequal(statistics: LogitsStatistics) -> int:
    return int(statistics["unequal_elements"])


def _describe_differences(phase: str, system: LogitsStatistics, floor: LogitsStatistics) -> str:
    differing, elements = _unequal(system), int(system["elements"])
    if differing == 0:
        text = f"{phase.capitalize()}: all {elements:,} logits equal the reference bit for bit"
    else:
        share = format_share(1 - differing / elements)
        text = f"{phase.capitalize()}: {differing:,} of {elements:,} logits differ, {share} are exactly equal"
    noise, lost = _unequal(floor), int(system["difference_histogram"]["nan"])
    against = "none differs" if noise == 0 else f"{noise:,} differ"
    undrawn = f" {lost:,} differences are not a number and are not drawn." if lost else ""
    return f"{text}; of the reference against itself {against}.{undrawn}"


def _draw_differences(axes: Axes, phase: str, system: LogitsStatistics, floor: LogitsStatistics) -> None:
    """Bars of the share of logits; x is the signed decade, with the exact zero in a bin of its own in the middle."""
    edges = np.array(system["difference_histogram"]["log10_edges"], dtype=float)
    start, width = edges[0] - _ZERO_GAP, edges[1] - edges[0]  # the decade that falls on x = 0
    centres = edges[:-1] + width / 2 - start
    places = np.concatenate([-centres[::-1], centres])
    axes.axvspan(-1.6, 1.6, color=EQUAL, alpha=0.7, linewidth=0, zorder=0)
    for side, colour, thickness in ((system, SYSTEM, 0.9), (floor, FLOOR, 0.4)):
        negative, zero, positive = _difference_shares(side)
        shares = np.concatenate([negative[::-1], positive])
        axes.bar(places, np.where(shares > 0, shares, np.nan), width=width * thickness, color=colour)
        axes.bar(-0.65 if side is system else 0.65, zero or np.nan, width=1.2, color=colour)
    _scale_differences(axes, edges, int(system["elements"]))
    _label_zero(axes, system, floor)
    _label_empty(axes, system, floor)
    set_title(axes, phase)


def _scale_differences(axes: Axes, edges: Floats, elements: int) -> None:
    """Put the decades on both axes, and mark how high a single logit would stand: an empty place means none."""
    start, reach = edges[0] - _ZERO_GAP, edges[-1] - edges[0] + _ZERO_GAP
    ticks = [decade for decade in range(-8, math.floor(edges[-1]) + 1, 4) if decade > edges[0]]
    axes.set_xticks(
        [*(start - decade for decade in reversed(ticks)), 0, *(decade - start for decade in ticks)],
        [
            *(f"$-10^{{{decade}}}$" for decade in reversed(ticks)),
            "exactly 0",
            *(f"$10^{{{decade}}}$" for decade in ticks),
        ],
    )
    axes.set_xlim(-reach - 0.3, reach + 0.3)
    lowest = min(0.3 / max(1, elements), 0.1)
    axes.set_yscale("log")
    axes.set_ylim(lowest, lowest**-0.28)  # room above 100 % for the labels
    axes.set_yticks([10.0**decade for decade in range(0, math.floor(math.log10(lowest)), -2)])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.axhline(1 / max(1, elements), color=FLOOR, linewidth=0.9, linestyle=":")
    axes.text(
        0.995, 1.4 / max(1, elements), "one logit", transform=axes.get_yaxis_transform(), ha="right", fontsize=8,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.5},
    )  # fmt: skip
    axes.set_xlabel("difference of a logit (log scale on both sides of 0)", fontsize=9)
    axes.set_ylabel("share of all logits (log scale)", fontsize=9)


def _difference_shares(statistics: LogitsStatistics) -> tuple[Floats, float, Floats]:
    """Return the shares of all logits: negative by decade, exactly zero, positive by decade."""
    histogram, elements = statistics["difference_histogram"], max(1, int(statistics["elements"]))
    negative, positive = (np.array(histogram[side], dtype=float) / elements for side in ("negative", "positive"))
    return negative, histogram["zero"] / elements, positive


def _label_zero(axes: Axes, system: LogitsStatistics, floor: LogitsStatistics) -> None:
    """Say above the zero bin what share of the logits it holds, and how many: the system left, the floor right."""
    for side, colour, place, anchor in ((system, SYSTEM, -0.2, "right"), (floor, FLOOR, 0.2, "left")):
        zero = int(side["difference_histogram"]["zero"])
        style: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": anchor, "va": "top", "color": colour}
        text = f"{format_share(_difference_shares(side)[1])} exactly 0"
        axes.text(place, 0.985, text, fontsize=9.5, fontweight="bold", **style)
        axes.text(place, 0.905, f"{zero:,} logits", fontsize=8.5, **style)


def _label_empty(axes: Axes, system: LogitsStatistics, floor: LogitsStatistics) -> None:
    """Say of a side without a bar that it is empty because nothing fell there."""
    sides = [_difference_shares(side) for side in (system, floor)]
    for place, word, which in ((0.23, "below", 0), (0.77, "above", 2)):
        if not any(np.any(side[which]) for side in sides):
            axes.text(place, 0.42, f"no logit\n{word} the reference", transform=axes.transAxes, ha="center", fontsize=9)


def _peak(series: KlByPosition) -> float:
    return max((float(value) for value in series["max"] if value is not None), default=0.0)


def _describe_kl(phase: str, series: KlByPosition) -> str:
    peak, count = _peak(series), len(series["position"])
    if peak == 0:
        return f"{phase.capitalize()}: the KL divergence is exactly zero at every one of {count:,} positions."
    largest = next(i for i, value in enumerate(series["max"]) if value is not None and float(value) == peak)
    first = next(i for i, value in enumerate(series["max"]) if value is not None and float(value) > 0)
    return (
        f"{phase.capitalize()}: the KL divergence reaches {format_value(peak)} nats at position "
        f"{series['position'][largest]}; the first position above zero is {series['position'][first]} of {count:,}."
    )


def _draw_kl(axes: Axes, phase: str, series: KlByPosition) -> None:
    set_title(axes, phase)
    axes.set_xlabel("position (tokens)", fontsize=9)
    axes.set_ylabel("KL(reference || system), nats (log scale)", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if _peak(series) == 0:
        axes.text(0.5, 0.5, "exactly zero at every position", transform=axes.transAxes, ha="center", fontsize=10)
        axes.set_yticks([])
        return
    axes.set_yscale("log")
    lowest, highest = math.inf, 0.0
    for name, style in _KL_SERIES:
        values = np.array([as_number(value) for value in series[name]], dtype=float)
        shown = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        axes.plot(series["position"], shown, **style)
        lowest, highest = np.nanmin([lowest, *shown]), np.nanmax([highest, *shown])
    if highest > 0:
        axes.set_ylim(10 ** (math.floor(math.log10(lowest)) - 0.2), 10 ** (math.ceil(math.log10(highest)) + 0.2))


def _describe_margins(phase: str, system: LogitsStatistics, k: Any) -> str:
    margin, largest = system["margin"], as_number(system["l2_position_max"])
    return (
        f"{phase.capitalize()}: the margin between ranks {k} and next is {format_value(as_number(margin['min']))} "
        f"logits at its smallest and {format_value(as_number(margin['p50']))} at its median; the largest difference "
        f"of a position has an L2 norm of {format_value(largest)}."
    )


def _draw_margins(axes: Axes, phase: str, system: LogitsStatistics, k: Any) -> None:
    margin = system["margin"]
    edges = np.array(margin["edges"], dtype=float)
    edges[0] = edges[1] / 10**0.25  # the first bin begins at 0, which a log axis cannot show
    axes.stairs(margin["counts"], edges, fill=True, color=FLOOR)
    axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, max(margin["counts"], default=0) * 1.3 or 1)  # room for the words above the bars
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel(f"margin between rank {k} and the next (logits, log scale)", fontsize=9)
    axes.set_ylabel("positions", fontsize=9)
    set_title(axes, phase)
    largest = as_number(system["l2_position_max"])
    if largest is None:
        return
    place = min(max(largest, edges[0]), edges[-1]) if math.isfinite(largest) else edges[-1]
    if largest > 0:
        axes.axvline(place, color=MARK, linewidth=1.6)
    is_right = place > math.sqrt(edges[0] * edges[-1])
    text = f"largest difference (L2)\n{format_value(largest)}" if largest else "← largest difference (L2): exactly 0"
    axes.annotate(
        text, (place, 0.97), xycoords=("data", "axes fraction"), xytext=(-5 if is_right else 5, 0),
        textcoords="offset points", ha="right" if is_right else "left", va="top", fontsize=8.5, color=INK,
    )  # fmt: skip


def _describe_layers(found: LocalisationFacts) -> str:
    first = found.get("first")
    place = (
        f"First difference: pass {first['pass']}, prompt {first['prompt']}, {first['phase']} position "
        f"{first['position']}, layer {first['layer'] or 'unknown'}."
        if first
        else "No logits differed."
    )
    weights = found.get("weights") or []
    blame = f" Weights that differed at the point of use: {name_some(weights)}." if weights else ""
    again = "" if found["reproduced"] else " The difference did not come back when it was looked for."
    differing = sum(any(float(value or 0) > 0 for value in row) for row in found["relative_l2"])
    return f"{place}{blame}{again} {differing} of {len(found['relative_l2'])} prompts differ somewhere."


def _draw_layers(figure: Figure, axes: Axes, values: Floats, found: LocalisationFacts) -> None:
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (positive.min(), positive.max()) if positive.size else (1.0, 1.0)
    norm = LogNorm(low if low < high else low / 10, high if low < high else high * 10)
    axes.grid(False)
    figure.set_dpi(_CELL_DPI)
    style: dict[str, Any] = {"edgecolors": "white", "linewidth": 0.4, "rasterized": True}
    axes.pcolormesh(np.where(values == 0, 1.0, np.nan), cmap=ListedColormap([EQUAL]), **style)
    shown = np.where(values > 0, np.where(np.isfinite(values), values, high), np.nan)
    mesh = axes.pcolormesh(shown, cmap="viridis_r", norm=norm, **style)
    _label_layers(axes, found["layers"], len(values))
    _mark_first(axes, found)
    _add_scale(figure, axes, mesh)


def _label_layers(axes: Axes, layers: Sequence[str], prompts: int) -> None:
    step = max(1, math.ceil(len(layers) / 24))
    places = sorted({*range(0, len(layers) - step, step), len(layers) - 1})
    names = [layers[place].rsplit(".", 1)[-1] for place in places]
    axes.set_xticks([place + 0.5 for place in places], names, fontsize=8.5)
    for label in axes.get_xticklabels():
        if not label.get_text().isdigit():
            label.set(rotation=35, ha="right", rotation_mode="anchor")
    rows = list(range(0, prompts, max(1, math.ceil(prompts / 12))))
    axes.set_yticks([row + 0.5 for row in rows], [str(row) for row in rows])
    axes.invert_yaxis()
    axes.set_ylabel("prompt", fontsize=9)
    set_title(axes, "Relative L2 norm of the difference at each layer's output")


def _mark_first(axes: Axes, found: LocalisationFacts) -> None:
    first, layers = found.get("first"), list(found["layers"])
    if first and first["layer"] in layers:
        place = (layers.index(first["layer"]) + 0.5, first["prompt"] + 0.5)
        for colour, width in (("white", 4.5), (MARK, 2.2)):  # a white rim, so that it shows on dark cells too
            axes.plot(*place, "o", markersize=10, markerfacecolor="none", color=colour, markeredgewidth=width)


def _add_scale(figure: Figure, axes: Axes, mesh: QuadMesh) -> None:
    bar = figure.colorbar(mesh, ax=axes, pad=0.01)
    bar.set_label("|system − reference| / |reference|", fontsize=9)
    bar.ax.tick_params(which="both", labelsize=8)
    handles: list[Any] = [Patch(facecolor=EQUAL, edgecolor=FLOOR, label="equal bit for bit")]
    handles += axes.plot([], [], "o", markerfacecolor="none", color=MARK, markeredgewidth=2, label="first difference")
    figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False, fontsize=9)
