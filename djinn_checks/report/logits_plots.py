"""Figures of the logits check, from an outcome's measurements alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from djinn_checks.outcome import Outcome, format_value
from djinn_checks.report.plots import EQUAL, FLOOR, INK, MARK, SYSTEM, Plot, make_figure, set_title
from djinn_checks.report.tables import as_number, format_share

PHASES = ("prefill", "decode")

Statistics = Mapping[str, Any]
Floats = NDArray[np.float64]

_NOT_COMPARED = "No logits were compared, so there is nothing to draw."
_NOTHING_DIFFERED = "Nothing differed, so no layer had to be searched."
_ZERO_GAP = 3.0
"""Decades between the exact zero and the smallest difference that is drawn."""
_KL_SERIES = (("max", MARK, "o"), ("mean", SYSTEM, "s"))


def plot_differences(outcome: Outcome) -> Plot:
    """How large the differences are, system minus reference: the exact zeros apart, then log10 on both sides."""
    phases = measured_phases(outcome)
    if not phases:
        return _nothing(_NOT_COMPARED)
    words = " ".join(_describe_differences(phase, system, floor) for phase, system, floor in phases)
    if all(_unequal(side) == 0 for _, system, floor in phases for side in (system, floor)):
        return _nothing(f"{words} There is no difference to draw.")
    figure, axes = make_figure(1, len(phases), width=10, height=3.8)
    for one, (phase, system, floor) in zip(axes, phases, strict=True):
        _draw_differences(one, phase, system, floor)
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
    figure, axes = make_figure(1, len(phases), width=10)
    for one, (phase, system, _) in zip(axes, phases, strict=True):
        _draw_kl(one, phase, system["kl_by_position"])
    points = [
        Line2D(
            [],
            [],
            marker=marker,
            color=colour,
            linestyle="none",
            markersize=4,
            label=f"{name} over the prompts, where not 0",
        )
        for name, colour, marker in _KL_SERIES
    ]
    figure.legend(handles=points, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return Plot(figure, words)


def plot_margins(outcome: Outcome) -> Plot:
    """How far apart ranks k and k + 1 are in the reference: smaller differences cannot change the top k."""
    phases = measured_phases(outcome)
    if not phases:
        return _nothing(_NOT_COMPARED)
    k = outcome.params.get("top_k", "k")
    figure, axes = make_figure(1, len(phases), width=10)
    for one, (phase, system, _) in zip(axes, phases, strict=True):
        _draw_margins(one, phase, system, k)
    words = " ".join(_describe_margins(phase, system, k) for phase, system, _ in phases)
    return Plot(figure, words)


def plot_layers(outcome: Outcome) -> Plot:
    """Where the difference begins: relative L2 norm at each layer's output, prompt by prompt."""
    found = outcome.measurements.get("localisation")
    if not found:
        return _nothing(_NOTHING_DIFFERED if measured_phases(outcome) else _NOT_COMPARED)
    words = _describe_layers(found)
    values = np.array([[as_number(value) for value in row] for row in found["relative_l2"]], dtype=float)
    if values.size == 0 or not (values > 0).any():
        return _nothing(words)
    figure, (axes,) = make_figure(width=10, height=min(8.0, 2.4 + 0.22 * len(values)))
    _draw_layers(figure, axes, values, found)
    return Plot(figure, words)


def measured_phases(outcome: Outcome) -> list[tuple[str, Statistics, Statistics]]:
    """Return (phase, system, floor) of the phases that were measured."""
    system, floor = outcome.measurements.get("statistics") or {}, outcome.measurements.get("floor") or {}
    return [(phase, system[phase], floor[phase]) for phase in PHASES if system.get(phase) and floor.get(phase)]


def _nothing(words: str) -> Plot:
    return Plot(None, words)


def _unequal(statistics: Statistics) -> int:
    return int(statistics["unequal_elements"])


def _describe_differences(phase: str, system: Statistics, floor: Statistics) -> str:
    differing, elements = _unequal(system), int(system["elements"])
    if differing == 0:
        text = f"{phase.capitalize()}: all {elements:,} logits equal the reference bit for bit"
    else:
        share = format_share(1 - differing / elements)
        text = f"{phase.capitalize()}: {differing:,} of {elements:,} logits differ, {share} are exactly equal"
    noise = _unequal(floor)
    against = "none differs" if noise == 0 else f"{noise:,} differ"
    return f"{text}; of the reference against itself {against}."


def _draw_differences(axes: Axes, phase: str, system: Statistics, floor: Statistics) -> None:
    """Bars of the share of logits; x is the signed decade, with the exact zero in the middle."""
    edges = np.array(system["difference_histogram"]["log10_edges"], dtype=float)
    start, width = edges[0] - _ZERO_GAP, edges[1] - edges[0]  # the decade that falls on x = 0
    centres = edges[:-1] + width / 2 - start
    places = np.concatenate([-centres[::-1], centres])
    for side, colour, thickness in ((system, SYSTEM, 0.9), (floor, FLOOR, 0.4)):
        negative, zero, positive = _difference_shares(side)
        shares = np.concatenate([negative[::-1], positive])
        axes.bar(places, np.where(shares > 0, shares, np.nan), width=width * thickness, color=colour)
        axes.bar(-0.55 if side is system else 0.55, zero or np.nan, width=1.0, color=colour)
    _label_zero(axes, system, floor)
    ticks = [decade for decade in range(-8, math.floor(edges[-1]) + 1, 4) if decade > edges[0]]
    axes.set_xticks(
        [*(start - decade for decade in reversed(ticks)), 0, *(decade - start for decade in ticks)],
        [*(f"$-10^{{{decade}}}$" for decade in reversed(ticks)), "0", *(f"$10^{{{decade}}}$" for decade in ticks)],
    )
    axes.set_yscale("log")
    axes.set_ylim(min(0.3 / int(system["elements"]), 0.1), 6)
    axes.set_xlabel("difference of a logit (log scale on both sides)", fontsize=9)
    axes.set_ylabel("share of all logits (log scale)", fontsize=9)
    set_title(axes, phase)


def _difference_shares(statistics: Statistics) -> tuple[Floats, float, Floats]:
    """Return the shares of all logits: negative by decade, exactly zero, positive by decade."""
    histogram, elements = statistics["difference_histogram"], max(1, int(statistics["elements"]))
    negative, positive = (np.array(histogram[side], dtype=float) / elements for side in ("negative", "positive"))
    return negative, histogram["zero"] / elements, positive


def _label_zero(axes: Axes, system: Statistics, floor: Statistics) -> None:
    for side, colour, place, anchor in ((system, SYSTEM, -0.1, "right"), (floor, FLOOR, 0.1, "left")):
        share = format_share(_difference_shares(side)[1])
        text = f"exactly 0: {share}" if side is system else share
        axes.text(place, 1.6, text, ha=anchor, fontsize=8.5, color=colour, fontweight="bold")


def _peak(series: Mapping[str, Any]) -> float:
    return max((float(value) for value in series["max"] if value is not None), default=0.0)


def _describe_kl(phase: str, series: Mapping[str, Any]) -> str:
    peak, count = _peak(series), len(series["position"])
    if peak == 0:
        return f"{phase.capitalize()}: the KL divergence is exactly zero at every one of {count:,} positions."
    largest = next(i for i, value in enumerate(series["max"]) if value is not None and float(value) == peak)
    first = next(i for i, value in enumerate(series["max"]) if value is not None and float(value) > 0)
    return (
        f"{phase.capitalize()}: the KL divergence reaches {format_value(peak)} nats at position "
        f"{series['position'][largest]}; the first position above zero is {series['position'][first]} of {count:,}."
    )


def _draw_kl(axes: Axes, phase: str, series: Mapping[str, Any]) -> None:
    set_title(axes, phase)
    axes.set_xlabel("position (tokens)", fontsize=9)
    axes.set_ylabel("KL(reference || system), nats (log scale)", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if _peak(series) == 0:
        axes.text(0.5, 0.5, "exactly zero at every position", transform=axes.transAxes, ha="center", fontsize=10)
        axes.set_yticks([])
        return
    axes.set_yscale("log")
    for name, colour, marker in _KL_SERIES:
        values = np.array([as_number(value) for value in series[name]], dtype=float)
        shown = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        axes.plot(series["position"], shown, marker, markersize=3, color=colour)


def _describe_margins(phase: str, system: Statistics, k: Any) -> str:
    margin, largest = system["margin"], as_number(system["l2_position_max"])
    return (
        f"{phase.capitalize()}: the margin between ranks {k} and next is {format_value(as_number(margin['min']))} "
        f"logits at its smallest and {format_value(as_number(margin['p50']))} at its median; the largest difference "
        f"of a position has an L2 norm of {format_value(largest)}."
    )


def _draw_margins(axes: Axes, phase: str, system: Statistics, k: Any) -> None:
    margin = system["margin"]
    edges = np.array(margin["edges"], dtype=float)
    edges[0] = edges[1] / 10**0.25  # the first bin begins at 0, which a log axis cannot show
    axes.stairs(margin["counts"], edges, fill=True, color=SYSTEM, alpha=0.75)
    axes.set_xscale("log")
    axes.set_xlabel(f"margin between rank {k} and the next (logits, log scale)", fontsize=9)
    axes.set_ylabel("positions", fontsize=9)
    set_title(axes, phase)
    largest = as_number(system["l2_position_max"])
    if not largest:
        set_title(axes, f"{phase}: the largest difference is exactly 0")
        return
    place = min(max(largest, edges[0]), edges[-1]) if math.isfinite(largest) else edges[-1]
    axes.axvline(place, color=MARK, linewidth=1.6)
    axes.annotate(
        f"largest difference (L2)\n{format_value(largest)}", (place, 0.97), xycoords=("data", "axes fraction"),
        xytext=(5, 0), textcoords="offset points", va="top", fontsize=8.5, color=INK,
    )  # fmt: skip


def _describe_layers(found: Mapping[str, Any]) -> str:
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


def _draw_layers(figure: Figure, axes: Axes, values: Floats, found: Mapping[str, Any]) -> None:
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (positive.min(), positive.max()) if positive.size else (1.0, 1.0)
    norm = LogNorm(low if low < high else low / 10, high if low < high else high * 10)
    axes.grid(False)
    axes.pcolormesh(np.where(values == 0, 1.0, np.nan), cmap=ListedColormap([EQUAL]), edgecolors="white", linewidth=0.4)
    shown = np.where(values > 0, np.where(np.isfinite(values), values, high), np.nan)
    mesh = axes.pcolormesh(shown, cmap="viridis_r", norm=norm, edgecolors="white", linewidth=0.4)
    _label_layers(axes, found["layers"], len(values))
    _mark_first(axes, found)
    _add_scale(figure, axes, mesh)


def _label_layers(axes: Axes, layers: Sequence[str], prompts: int) -> None:
    step = max(1, math.ceil(len(layers) / 24))
    places = sorted({*range(0, len(layers) - step, step), len(layers) - 1})
    names = [layers[place].rsplit(".", 1)[-1] for place in places]
    axes.set_xticks([place + 0.5 for place in places], names, rotation=60, ha="right")
    rows = list(range(0, prompts, max(1, math.ceil(prompts / 12))))
    axes.set_yticks([row + 0.5 for row in rows], [str(row) for row in rows])
    axes.invert_yaxis()
    axes.set_ylabel("prompt", fontsize=9)
    set_title(axes, "Relative L2 norm of the difference at each layer's output")


def _mark_first(axes: Axes, found: Mapping[str, Any]) -> None:
    first, layers = found.get("first"), list(found["layers"])
    if first and first["layer"] in layers:
        place = (layers.index(first["layer"]) + 0.5, first["prompt"] + 0.5)
        axes.plot(*place, marker="o", markersize=9, markerfacecolor="none", markeredgecolor=MARK, markeredgewidth=2)


def _add_scale(figure: Figure, axes: Axes, mesh: QuadMesh) -> None:
    bar = figure.colorbar(mesh, ax=axes, pad=0.01)
    bar.set_label("|system − reference| / |reference|", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    handles: list[Any] = [Patch(facecolor=EQUAL, edgecolor=FLOOR, label="equal bit for bit")]
    handles += axes.plot([], [], "o", markerfacecolor="none", color=MARK, markeredgewidth=2, label="first difference")
    figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False, fontsize=9)


def name_some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more if names else "none"
