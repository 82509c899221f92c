"""Weights that travel encoded, drawn above the wire: weight bytes a second, window by window, in GB/s.

A window knows its payload alone. Over the whole run it is known how many weight bytes a second that payload became, if
a pass was seen to use them bit for bit; each window is drawn at the same ratio.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from djinn_checks.measurements.pcie import read
from djinn_checks.outcome import Outcome
from djinn_checks.report.plots import FLOOR
from djinn_checks.units import GB

WEIGHTS = "#009E73"
"""What weights become of it; of the palette of `report/plots.py`."""


class WeightRate(NamedTuple):
    """What the run's weights came to."""

    gb_per_s: float
    of_ceiling: float


def find_weight_rate(outcome: Outcome) -> WeightRate | None:
    """Return weight bytes a second of a system that encodes; None of others, and where no pass was seen to use them."""
    measured = read(outcome.measurements)
    figures, link = measured.get("figures"), measured.get("link")
    share = figures["weights_of_ceiling"] if figures else None
    if share is None or not link or not measured.get("floor"):
        return None
    return WeightRate(share * link["ceiling_bytes_per_s"] / GB, share)


def draw_weight_rate(axes: Axes, outcome: Outcome, starts: np.ndarray, rates: np.ndarray) -> float:
    """Draw it and return how high it goes; 0 if there is none.

    Args:
        starts: of the windows, in seconds.
        rates: payload that was received in them, in GB/s; NaN is lost evidence.
    """
    weights = find_weight_rate(outcome)
    known = rates[np.isfinite(rates)]
    if weights is None or not len(known) or known.mean() <= 0:
        return 0.0
    drawn = rates * (weights.gb_per_s / known.mean())
    axes.step(starts, drawn, where="post", color=WEIGHTS, linewidth=0.9)
    top = float(np.nanmax(drawn))
    axes.annotate(f"decoded: {weights.gb_per_s:.1f} GB/s, {weights.of_ceiling:.3f} of the ceiling",
                  (0, top), xycoords=("axes fraction", "data"), xytext=(6, 6), fontsize=9, color=WEIGHTS,
                  textcoords="offset points")  # fmt: skip
    axes.annotate("received over the link", (0, float(np.nanmedian(rates)) / 2), xycoords=("axes fraction", "data"),
                  xytext=(6, 0), va="center", fontsize=9, color=FLOOR, textcoords="offset points")  # fmt: skip
    return top


def describe_weight_rate(outcome: Outcome) -> str:
    """Return the sentence for it, which begins with a space; empty if there is none."""
    weights = find_weight_rate(outcome)
    if weights is None:
        return ""
    return (
        f" Decoded, that was {weights.gb_per_s:.1f} GB/s of weights, {weights.of_ceiling:.3f} of the ceiling: a pass "
        "was seen to use them bit for bit."
    )
