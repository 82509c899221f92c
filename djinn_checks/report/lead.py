"""The one figure that a page begins with: what decided, with the line that decided drawn in it.

Each check has a figure that shows its claim. Where another criterion decided, one that no such figure shows, its value
is drawn against its threshold, and where there is no value, how the criteria came out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from matplotlib.patches import Rectangle

from djinn_checks.outcome import Criterion, Outcome, Status, format_quantity
from djinn_checks.report.drawings import find_drawing
from djinn_checks.report.plots import INK, MARK, SYSTEM, Plot, make_figure, set_title
from djinn_checks.report.tables import ICONS
from djinn_checks.units import format_bytes, format_seconds

_SIGNS = {">=": "at least", "<=": "at most", "==": "exactly", "<": "less than", ">": "more than"}
_COLOURS = {
    Status.PASS: "#1a7f37",
    Status.FAIL: "#c41e2a",
    Status.INCONCLUSIVE: "#8a5a00",
    Status.ERROR: "#7a3bc4",
    Status.SKIP: "#57606a",
}
_CLAIMS: Mapping[str, str] = {
    "logits": "plot_differences",
    "pcie": "plot_flatline",
    "agents": "plot_timeline",
    "faults": "plot_counts",
    "host": "plot_links",
}
"""The figure that shows a check's claim."""
_SHOWN: Mapping[str, Mapping[str, str]] = {
    "logits": {
        f"{phase}_{kind}": "plot_differences"
        for phase in ("prefill", "decode")
        for kind in ("bit_equal", "l2_or_top_k")
    },
    "pcie": {"rx_above_threshold": "plot_flatline", "rx_of_ceiling": "plot_flatline"},
    "agents": {"kv_left_device": "plot_timeline", "kv_returned": "plot_timeline", "kv_left_soon": "plot_timeline"},
}
"""The figures that show what a criterion looks at, by check and criterion."""
_CROWD = "plot_crowd"
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
"""The box behind words that may stand over a line."""
_FEWEST = 3
"""Tiles that make a picture: one or two say nothing that the banner does not."""


class Lead(NamedTuple):
    """A figure, and the name of its drawing; empty for one that stands at the head of a page alone."""

    drawing: str
    plot: Plot


def draw_lead(outcome: Outcome) -> Lead | None:
    """Return the figure that shows what decided; None where nothing was judged."""
    decider = find_decider(outcome)
    name = _name(outcome, decider)
    if name:
        plot = find_drawing(name)(outcome)
        if plot.figure is not None:
            return Lead(name, plot)
    plot = plot_criterion(decider) if decider else Plot(None, "")
    if plot.figure is None:
        plot = plot_statuses(outcome)
    return None if plot.figure is None else Lead("", plot)


def find_decider(outcome: Outcome) -> Criterion | None:
    """Return the required criterion that made the verdict what it is; None for a PASS, which all of them made."""
    if outcome.status is Status.PASS:
        return None
    rows = (row for row in outcome.failed_first if row.required and row.status is outcome.status)
    return next(rows, None)


def _name(outcome: Outcome, decider: Criterion | None) -> str:
    if outcome.check == "agents" and (decider is None or decider.name.startswith(("crowd", "wake", "restore_p99"))):
        has_crowd = bool(outcome.timings.get("crowd"))
        return _CROWD if has_crowd else _CLAIMS["agents"]
    if decider is None or outcome.check == "faults":
        return _CLAIMS.get(outcome.check, "")
    return _SHOWN.get(outcome.check, {}).get(decider.name, "")


def plot_criterion(row: Criterion) -> Plot:
    """A criterion's value as a bar, and its threshold as a line."""
    observed, threshold = _number(row.observed), _number(row.threshold)
    if observed is None or threshold is None:
        return Plot(None, "")
    figure, (axes,) = make_figure(width=10, height=1.7)
    axes.barh([0], [observed], height=0.5, color=SYSTEM)
    axes.axvline(threshold, color=MARK, linewidth=2)
    low, high = min(0.0, observed, threshold), max(0.0, observed, threshold)
    room = 0.3 * ((high - low) or 1.0)
    axes.set_xlim(low - (room if low < 0 else 0.02 * (high - low or 1.0)), high + room)
    axes.set_ylim(-0.5, 1.0)
    axes.set_yticks([])
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    asked, seen = f"{_SIGNS[row.comparison]} {_told(threshold, row)}", _told(observed, row)
    side = "right" if threshold > 0.6 * high else "left"
    axes.annotate(f"asked for: {asked}", (threshold, 0.62), xytext=(-6 if side == "right" else 6, 0), color=MARK,
                  textcoords="offset points", fontsize=9.5, ha=side)  # fmt: skip
    axes.annotate(seen, (max(observed, 0.0), 0), xytext=(6, 0), textcoords="offset points", fontsize=10, va="center",
                  color=INK, fontweight="bold", bbox=_PAPER)  # fmt: skip
    set_title(axes, row.title)
    return Plot(figure, f"{row.title}: {seen}, asked for {asked} ({row.name}).")


def plot_statuses(outcome: Outcome) -> Plot:
    """How the required criteria came out: a tile each, in the order of the table beneath."""
    rows = [row for row in outcome.failed_first if row.required]
    decider = find_decider(outcome)
    if len(rows) < _FEWEST or (outcome.status is not Status.PASS and decider is None):
        return Plot(None, "")
    figure, (axes,) = make_figure(width=10, height=1.35)
    for place, row in enumerate(rows):
        axes.add_patch(Rectangle((place, 0), 0.92, 1, color=_COLOURS[row.status]))
        axes.text(place + 0.46, 0.5, ICONS[row.status], color="white", ha="center", va="center", fontsize=12)
    axes.set_xlim(0, len(rows))
    axes.set_ylim(0, 1)
    axes.set_axis_off()
    counts = [(status, sum(row.status is status for row in rows)) for status in Status]
    told = ", ".join(f"{count} {status.value}" for status, count in counts if count)
    set_title(axes, f"{len(rows)} required criteria: {told}")
    why = f" First: {decider.title}: {decider.reason}" if decider else ""
    return Plot(figure, f"The required criteria in the order of the table: {told}.{why}")


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number and isinstance(value, int | float) else None


def _told(value: float, row: Criterion) -> str:
    if row.unit.startswith("bytes"):
        return format_bytes(value) + row.unit.removeprefix("bytes")
    if row.unit == "s":
        return format_seconds(value)
    whole = int(value) if value.is_integer() and not row.unit.startswith("share") else value
    return format_quantity(whole, row.unit)
