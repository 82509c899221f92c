"""Figures of the PCIe check on several GPUs at once, from an outcome's measurements alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from djinn_checks.measurements.pcie import GpuRow, PcieMeasurements, Windows, read
from djinn_checks.outcome import Outcome
from djinn_checks.report.link_names import shorten
from djinn_checks.report.pcie.gpu_table import ONE_LINK, format_rate
from djinn_checks.report.plots import FLOOR, INK, MARK, SYSTEM, Plot, make_figure, set_title
from djinn_checks.units import GB


def plot_flatlines(outcome: Outcome) -> Plot:
    """Received payload of each GPU over the run in which all decode, one strip each, and the sum of all."""
    found = read(outcome.measurements)
    windows = {gpu["uuid"]: its for gpu in found.get("gpus") or () if (its := _windows(gpu))}
    if not windows:
        return Plot(None, ONE_LINK if not found.get("gpus") else "There are no PCIe counters on this machine.")
    starts = {uuid: its["clock_start_s"] for uuid, its in windows.items()}
    names = shorten([gpu["uuid"] for gpu in found["gpus"]])
    zero = min(starts.values())
    figure, panels = make_figure(len(windows) + 1, width=10, height=1.2 + 1.15 * (len(windows) + 1), share_x=True)
    for axes, gpu in zip(panels, (gpu for gpu in found["gpus"] if gpu["uuid"] in windows), strict=False):
        its = windows[gpu["uuid"]]
        rates = _gb(its["rx_mb_per_s"])
        times = starts[gpu["uuid"]] - zero + its["window_s"] * np.arange(len(rates))
        ceiling = gpu["ceiling_together_bytes_per_s"] / GB
        axes.fill_between(times, rates, step="post", color=SYSTEM, alpha=0.18, linewidth=0)
        axes.step(times, rates, where="post", color=SYSTEM, linewidth=0.9)
        axes.axhline(ceiling, color=FLOOR, linewidth=1.1, linestyle="--", label="ceiling while all copy")
        axes.axhline(gpu["ceiling_alone_bytes_per_s"] / GB, color=FLOOR, linewidth=0.9, linestyle=":",
                     label="ceiling alone")  # fmt: skip
        axes.axhline(float(outcome.params.get("threshold_mb_per_s", 20_000)) / 1e3, color=MARK, linewidth=1,
                     linestyle="--", label="threshold")  # fmt: skip
        axes.set_ylim(0, 1.15 * max(ceiling, gpu["ceiling_alone_bytes_per_s"] / GB))
        axes.set_ylabel("GB/s")
        set_title(axes, f"{names[gpu['uuid']]}: {gpu['status']}")
    times, total = _sum(windows, zero)
    panels[-1].step(times, total, where="post", color=INK, linewidth=0.9)
    panels[-1].set_ylim(0, 1.15 * float(np.nanmax(total, initial=1e-9)))
    panels[-1].set_ylabel("GB/s")
    panels[-1].set_xlabel("seconds")
    shown = panels[0].get_legend_handles_labels()
    figure.legend(*shown, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    set_title(panels[-1], "all together")
    return Plot(figure, _describe(found))


def _windows(gpu: GpuRow) -> Windows | None:
    found: Windows | None = gpu["measurements"].get("windows")
    return found


def _sum(windows: dict[str, Windows], zero: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of all in windows of the first, over the time in which every one ran."""
    width = max(its["window_s"] for its in windows.values())
    start = max(its["clock_start_s"] for its in windows.values()) - zero
    end = min(its["clock_start_s"] + its["duration_s"] for its in windows.values()) - zero
    times = np.arange(start, max(start + width, end - width), width)
    total = np.zeros(len(times))
    for its in windows.values():
        rates = _gb(its["rx_mb_per_s"])
        at = np.clip(((times + zero - its["clock_start_s"]) / its["window_s"]).astype(int), 0, max(0, len(rates) - 1))
        total += rates[at] if len(rates) else np.nan
    return times, total


def _describe(found: PcieMeasurements) -> str:
    names = shorten([gpu["uuid"] for gpu in found["gpus"]])
    parts = [
        f"{names[gpu['uuid']]} received {format_rate(gpu['bytes_per_s'])} GB/s"
        + (f", {gpu['share_of_alone']:.1%} of alone" if gpu["share_of_alone"] is not None else "")
        for gpu in found["gpus"]
    ]
    return f"Received payload of {len(found['gpus'])} GPUs while all decode: {'; '.join(parts)}."


def _gb(mb_per_s: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if rate is None else rate / 1e3 for rate in mb_per_s], dtype=float)
