"""Figures of the PCIe check, from an outcome's measurements alone. Rates in GB/s of payload, times in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from djinn_checks.measurements.pcie import Windows, Zoom, read
from djinn_checks.outcome import Criterion, Outcome, Status
from djinn_checks.report.pcie.weight_rate import WEIGHTS, describe_weight_rate, draw_weight_rate
from djinn_checks.report.plots import FLOOR, INK, MARK, SYSTEM, Plot, make_figure, set_title
from djinn_checks.report.tables import format_share
from djinn_checks.units import GB, MIB, format_bytes

_NO_COUNTERS = (
    "There are no PCIe counters on this machine, so there is no traffic to draw. A recorded trace can be looked at in "
    "its place: set `trace`, for example to tests/data/traces/ring.csv.gz."
)
_COMPUTE = "#E69F00"
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.85}
"""The box behind words that are written over data."""


def plot_flatline(outcome: Outcome, height: float = 3.6) -> Plot:
    """Received payload over the whole run, window by window, with the ceiling and the level that decided.

    Args:
        height: of the figure, in inches.
    """
    windows = read(outcome.measurements).get("windows")
    if not windows:
        return Plot(None, _NO_COUNTERS)
    rates = _gb(windows["rx_mb_per_s"])
    ceiling, level = _ceiling(outcome), _find_level(outcome)
    starts = windows["window_s"] * np.arange(len(rates))
    figure, (axes,) = make_figure(width=10, height=height)
    axes.fill_between(starts, rates, step="post", color=SYSTEM, alpha=0.18, linewidth=0)
    axes.step(starts, rates, where="post", color=SYSTEM, linewidth=0.9, label="received")
    _draw_levels(axes, ceiling, level)
    for start, end in windows["holes_s"]:
        axes.axvspan(start, end, color=MARK, alpha=0.25, linewidth=0)
    highest = draw_weight_rate(axes, outcome, starts, rates)
    axes.set_xlim(0, windows["duration_s"])
    axes.set_ylim(0, 1.2 * max(ceiling, highest, float(np.nanmax(rates, initial=0.0))))
    axes.set_xlabel("seconds")
    axes.set_ylabel("GB/s")
    set_title(axes, f"{format_share(level.share(rates))} of windows {level.words}. {level.asked}")
    return Plot(figure, _describe_flatline(outcome, rates, windows))


def plot_zoom(outcome: Outcome) -> Plot:
    """The last passes in short windows, and beneath them each layer's copy and computation by the system's account."""
    zoom = read(outcome.measurements).get("zoom")
    if not zoom:
        return Plot(None, _NO_COUNTERS)
    lanes = 2.5 if _decodes(zoom) else 1.9
    parts = ((_draw_zoom, 3.0, zoom["rx_mb_per_s"]), (_draw_overlap, lanes, zoom["timeline"]))
    draws = [draw for draw, _, known in parts if known]
    heights = [height for _, height, known in parts if known]
    figure, panels = make_figure(len(draws), width=10, height=0.5 + sum(heights), height_ratios=heights, share_x=True)
    for draw, axes in zip(draws, panels, strict=True):
        draw(axes, outcome, zoom)
        for end in zoom["pass_ends_s"]:
            axes.axvline(end, color=INK, linewidth=0.6, linestyle=(0, (1, 2)))
    panels[-1].set_xlim(zoom["start_s"], zoom["end_s"])
    panels[-1].set_xlabel("seconds after the start (dotted: a pass ends)")
    return Plot(figure, _describe_zoom(zoom))


def plot_distribution(outcome: Outcome) -> Plot:
    """How the windows' rates are distributed."""
    windows = read(outcome.measurements).get("windows")
    if not windows:
        return Plot(None, _NO_COUNTERS)
    rates = _gb(windows["rx_mb_per_s"])
    rates = rates[np.isfinite(rates)]
    if not len(rates):
        return Plot(None, "Every window is lost: the counters gave no evidence.")
    ceiling, threshold = _ceiling(outcome), _threshold(outcome)
    figure, (axes,) = make_figure(width=10, height=2.8)
    top = 1.05 * max(ceiling, float(rates.max()))
    counts, _, _ = axes.hist(rates, bins=np.linspace(0, top, 106).tolist(), color=SYSTEM)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(0, 2 * float(np.max(counts)))
    for value, text, colour in ((threshold, "threshold", MARK), (ceiling, "ceiling", FLOOR)):
        axes.axvline(value, color=colour, linewidth=1.2, linestyle="--")
        axes.annotate(text, (value, 1), xycoords=("data", "axes fraction"), xytext=(-4, -2), fontsize=9, color=colour,
                      textcoords="offset points", ha="right", va="top")  # fmt: skip
    axes.set_xlim(0, top)
    axes.set_xlabel("GB/s received in a window")
    axes.set_ylabel("windows")
    low, median, high = np.quantile(rates, [0.01, 0.5, 0.99])
    words = (
        f"Distribution of {len(rates):,} windows of {windows['window_s'] * 1e3:g} ms: median {median:.1f} GB/s, "
        f"1st percentile {low:.1f}, 99th {high:.1f}; the ceiling is {ceiling:.1f} GB/s."
    )
    return Plot(figure, words)


def plot_sweep(outcome: Outcome) -> Plot:
    """The link's rate for copies of 1 to 512 MiB, from pinned and from pageable memory."""
    link = read(outcome.measurements).get("link")
    sweep = (link.get("sweep") if link else None) or []
    if not link or not sweep:
        return Plot(None, "The sweep over sizes of copies was not asked for (`sweep: false`), or this is a replay.")
    host = link["subject"] == "host memory"
    figure, (axes,) = make_figure(width=10, height=3.2)
    words = []
    for pinned, name, colour in ((True, "pinned", SYSTEM), (False, "pageable", MARK)):
        rows = [row for row in sweep if row["pinned"] == pinned]
        if not rows:
            continue
        sizes = [row["nbytes"] / MIB for row in rows]
        rates = [row["bytes_per_s"] / GB for row in rows]
        label = "host memory" if host else name
        axes.plot(sizes, rates, color=colour, marker="o", markersize=4, linewidth=1.4)
        axes.annotate(label, (sizes[-1], rates[-1]), xytext=(8, 0), textcoords="offset points", color=colour,
                      fontsize=9.5, va="center")  # fmt: skip
        words.append(f"{label}: {rates[0]:.1f} GB/s at {sizes[0]:g} MiB, {rates[-1]:.1f} GB/s at {sizes[-1]:g} MiB")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlim(0.8, 1.9 * max(sizes))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("MiB a copy")
    axes.set_ylabel("GB/s")
    return Plot(figure, f"Rate of copies to the device by their size. {'; '.join(words)}.")


def _ceiling(outcome: Outcome) -> float:
    return float(read(outcome.measurements)["link"]["ceiling_bytes_per_s"]) / GB


def _threshold(outcome: Outcome) -> float:
    return float(outcome.params.get("threshold_mb_per_s", 20_000)) / 1e3


def _gb(mb_per_s: Sequence[float | None]) -> np.ndarray:
    """Return MB/s as GB/s; None, lost evidence, as NaN."""
    return np.array([np.nan if rate is None else rate / 1e3 for rate in mb_per_s], dtype=float)


def _share_above(rates: np.ndarray, threshold: float) -> float:
    return float((rates > threshold).mean()) if len(rates) else 0.0


def _find_level(outcome: Outcome) -> _Level:
    """Return the level that decided: the paper's where that was missed, and else the part of the ceiling."""
    rows = {row.name: row for row in outcome.criteria}
    paper, part = rows.get("rx_above_threshold"), rows.get("rx_of_ceiling")
    if (paper is not None and paper.status is Status.FAIL) or part is None or part.status is Status.SKIP:
        share = float(outcome.params.get("threshold_share", 0.8))
        words = f"above {1e3 * _threshold(outcome):,.0f} MB/s, the paper's threshold"
        return _Level(_threshold(outcome), False, paper, words, f"Asked for: more than {100 * share:g} %")
    fraction = float(outcome.params.get("ceiling_fraction", 0.9))
    share = float(outcome.params.get("ceiling_share", 0.95))
    value = fraction * _ceiling(outcome)
    words = f"at {value:.1f} GB/s or more, {100 * fraction:g} % of the ceiling"
    return _Level(value, True, part, words, f"Asked for: at least {100 * share:g} %")


class _Level(NamedTuple):
    """A rate that windows are held against, in GB/s."""

    value: float
    included: bool
    """Whether a window that just reaches it counts."""
    row: Criterion | None
    words: str
    asked: str

    def share(self, rates: np.ndarray) -> float:
        """Return the share of windows that reach it: the criterion's own where it has one."""
        if self.row is not None and isinstance(self.row.observed, int | float):
            return float(self.row.observed)
        if not len(rates):
            return 0.0
        return float((rates >= self.value if self.included else rates > self.value).mean())


def _draw_levels(axes: Axes, ceiling: float, level: _Level) -> None:
    deciding = "asked for"
    for value, text, colour, width in ((ceiling, "ceiling", FLOOR, 1.1), (level.value, deciding, MARK, 1.8)):
        above = value == ceiling
        axes.axhline(value, color=colour, linewidth=width, linestyle="--")
        axes.annotate(f"{text}: {value:.1f} GB/s", (1, value), xycoords=("axes fraction", "data"),
                      xytext=(-4, 6 if above else -6), fontsize=9, color=colour, textcoords="offset points", ha="right",
                      va="bottom" if above else "top", bbox=_PAPER)  # fmt: skip


def _draw_zoom(axes: Axes, outcome: Outcome, zoom: Zoom) -> None:
    rates = _gb(zoom["rx_mb_per_s"] or [])
    starts = zoom["start_s"] + zoom["window_s"] * np.arange(len(rates))
    axes.step(starts, rates, where="post", color=SYSTEM, linewidth=0.8)
    axes.axhline(_ceiling(outcome), color=FLOOR, linewidth=1.1, linestyle="--")
    axes.set_ylim(0, 1.25 * max(_ceiling(outcome), float(np.nanmax(rates, initial=0.0))))
    axes.set_ylabel("GB/s")
    set_title(axes, f"Counted, in windows of {zoom['window_s'] * 1e3:g} ms")


def _draw_overlap(axes: Axes, outcome: Outcome, zoom: Zoom) -> None:
    """Two strips: what was copied when, neighbours in alternating shades, and what computed when.

    If weights travel encoded there is a third one between them: what was decoded when.
    """
    strips = [("computation", "compute", _COMPUTE), ("copies", "copy", SYSTEM)]
    if _decodes(zoom):
        strips.insert(1, ("decodes", "decode", WEIGHTS))
    for index, row in enumerate(zoom["timeline"]):
        times = dict(row)
        for lane, (_, step, colour) in enumerate(strips):
            start, end = times.get(f"{step}_start_s"), times.get(f"{step}_end_s")
            if not isinstance(start, int | float) or not isinstance(end, int | float):
                continue
            shade = 0.6 if lane and index % 2 else 1.0  # copies follow each other without a gap
            axes.broken_barh([(start, end - start)], (lane - 0.36, 0.72), color=colour, alpha=shade, linewidth=0.5)
    axes.set_yticks(range(len(strips)), [name for name, _, _ in strips])
    axes.set_ylim(-0.6, len(strips) - 0.4)
    axes.grid(visible=False)
    set_title(axes, "Layer by layer, by the system's own events")


def _decodes(zoom: Zoom) -> bool:
    return any("decode_start_s" in row for row in zoom["timeline"])


def _describe_flatline(outcome: Outcome, rates: np.ndarray, windows: Windows) -> str:
    known = rates[np.isfinite(rates)]
    ceiling, threshold = _ceiling(outcome), _threshold(outcome)
    mean = f"{known.mean():.1f} GB/s on average" if len(known) else "nothing known"
    lost = f", {len(rates) - len(known):,} windows lost" if len(known) < len(rates) else ""
    return (
        f"Received payload over {windows['duration_s']:.1f} s in {len(rates):,} windows of "
        f"{windows['window_s'] * 1e3:g} ms: {mean}{lost}; {format_share(_share_above(rates, threshold))} of windows "
        f"above {threshold:.0f} GB/s, "
        f"{format_share(_share_above(rates, 0.9 * ceiling))} above nine tenths of the ceiling of {ceiling:.1f} GB/s."
        f"{describe_weight_rate(outcome)}"
    )


def _describe_zoom(zoom: Zoom) -> str:
    span = zoom["end_s"] - zoom["start_s"]
    text = f"The last {span:.2f} s of the run"
    if zoom["rx_mb_per_s"]:
        known = _gb(zoom["rx_mb_per_s"])
        known = known[np.isfinite(known)]
        idle = float((known < 1.0).mean()) if len(known) else 0.0
        text += f" in windows of {zoom['window_s'] * 1e3:g} ms: {format_share(idle)} of them carry less than 1 GB/s"
    if not zoom["timeline"]:
        return f"{text}. The system keeps no account of its copies, so none is drawn."
    copied = sum(row["bytes"] for row in zoom["timeline"])
    text += f"; beneath, {len(zoom['timeline'])} copies of {format_bytes(copied)} in all, "
    if not _decodes(zoom):
        return f"{text}and the computations."
    weights = sum(row.get("weight_bytes", 0) for row in zoom["timeline"])
    return f"{text}their decodes into {format_bytes(weights)} of weights, and the computations."
