"""Figure of the logits check that says where a difference begins: prompt by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from djinn_checks.outcome import Outcome
from djinn_checks.report.logits.plots import NOT_COMPARED, Floats, measured_phases
from djinn_checks.report.plots import EQUAL, FLOOR, MARK, Plot, make_figure, set_title
from djinn_checks.report.tables import as_number, name_some

_NOTHING_DIFFERED = "Nothing differed, so no layer had to be searched."
_CELL_DPI = 200
"""The cells are a picture inside the SVG: 30 prompts by 82 layers as paths would be 1.5 MB."""


def plot_layers(outcome: Outcome) -> Plot:
    """Where the difference begins: relative L2 norm at each layer's output, prompt by prompt."""
    found = outcome.measurements.get("localisation")
    if not found:
        return Plot(None, _NOTHING_DIFFERED if measured_phases(outcome) else NOT_COMPARED)
    words = _describe_layers(found)
    values = np.array([[as_number(value) for value in row] for row in found["relative_l2"]], dtype=float)
    if values.size == 0 or not (values > 0).any():
        return Plot(None, words)
    figure, (axes,) = make_figure(width=10, height=min(8.0, 2.4 + 0.22 * len(values)))
    _draw_layers(figure, axes, values, found)
    return Plot(figure, words)


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


def _mark_first(axes: Axes, found: Mapping[str, Any]) -> None:
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
