"""Figures of the host check, from an outcome's measurements alone. Rates in GB/s, times in seconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes

from djinn_checks.measurements.host import HostMeasurements, LinkRow, read
from djinn_checks.outcome import Outcome
from djinn_checks.report.link_names import shorten
from djinn_checks.report.plots import EQUAL, FLOOR, INK, MARK, SYSTEM, Plot, make_figure, set_title
from djinn_checks.units import GB, format_count

_WORDS = {"h2d": "host to device", "d2h": "device to host", "both": "both ways at once"}
_NOTHING = "No link was driven, so there is nothing to draw."
_MANY = 4
"""From so many links on their names stand upright."""


def plot_links(outcome: Outcome) -> Plot:
    """Each link's rate alone, and what it keeps while all are driven, in each direction."""
    found = read(outcome.measurements)
    links = found.get("links") or []
    if not any(link["alone"] for link in links):
        return Plot(None, _NOTHING)
    names = shorten([link["uuid"] for link in links])
    figure, panels = make_figure(1, len(_WORDS), width=10, height=4.0 if len(links) < _MANY else 4.5)
    for axes, (way, words) in zip(panels, _WORDS.items(), strict=True):
        _draw_way(axes, links, names, way)
        set_title(axes, words)
    panels[0].set_ylabel("GB/s of payload")
    shown = panels[0].get_legend_handles_labels()
    figure.legend(*shown, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return Plot(figure, _describe_links(found, links))


def plot_host_traffic(outcome: Outcome) -> Plot:
    """What the counters of each link saw over all stages: received upwards, sent downwards, one strip a link."""
    found = read(outcome.measurements)
    traces = found.get("traces")
    links = [link for link in found.get("links") or () if traces and traces["rx_mb_per_s"].get(link["uuid"])]
    if traces is None or not links:
        return Plot(None, "No link was counted, so there is no traffic to draw.")
    names = shorten([link["uuid"] for link in links])
    height = 0.9 + max(0.75, 2.4 / len(links)) * len(links)
    figure, panels = make_figure(len(links), width=10, height=height, share_x=True)
    top = max(_largest(traces["rx_mb_per_s"].values()), _largest(traces["tx_mb_per_s"].values()), 1e-9)
    for axes, link in zip(panels, links, strict=True):
        received, sent = (_gb(traces[way][link["uuid"]]) for way in ("rx_mb_per_s", "tx_mb_per_s"))
        starts = traces["window_s"] * np.arange(len(received))
        axes.fill_between(starts, received, step="post", color=SYSTEM, linewidth=0)
        axes.fill_between(starts[: len(sent)], -sent, step="post", color=MARK, linewidth=0)
        for stage in found.get("stages") or ():
            if stage["kind"] == "together":
                axes.axvspan(stage["start_s"], stage["end_s"], color=EQUAL, linewidth=0, zorder=0)
        axes.axhline(0, color=INK, linewidth=0.6)
        axes.set_ylim(-1.1 * top, 1.1 * top)
        axes.set_yticks([-top, 0, top], [f"{top:.2g}", "0", f"{top:.2g}"])
        axes.grid(visible=False)
        axes.set_ylabel(names[link["uuid"]], rotation=0, ha="right", va="center", fontsize=8.5)
    set_title(panels[0], "GB/s on the wire: received (up), sent (down); grey: all at once")
    panels[-1].set_xlabel("seconds")
    panels[-1].set_xlim(0, max(stage["end_s"] for stage in found["stages"]) if found.get("stages") else None)
    return Plot(figure, _describe_traffic(found, links))


def _draw_way(axes: Axes, links: Sequence[LinkRow], names: dict[str, str], way: str) -> None:
    places = np.arange(len(links))
    alone = [link["alone"].get(way, 0.0) / GB for link in links]
    together = [link["together"].get(way, 0.0) / GB for link in links]
    axes.bar(places, alone, width=0.72, color=EQUAL, edgecolor=FLOOR, linewidth=0.8, label="alone")
    axes.bar(places, together, width=0.46, color=SYSTEM, linewidth=0, label="all at once")
    for place, link in zip(places.tolist(), links, strict=True):
        share = link["share_of_alone"].get(way)
        if share is not None:
            upright = 90 if len(links) > 2 * _MANY else 0
            axes.annotate(f"{share:.0%}", (place, alone[place]), xytext=(0, 3), textcoords="offset points",
                          ha="center", fontsize=8.5 if len(links) < 2 * _MANY else 7, color=INK,
                          rotation=upright)  # fmt: skip
    axes.set_xticks(places, [names[link["uuid"]] for link in links], rotation=90 if len(links) >= _MANY else 0,
                    fontsize=8)  # fmt: skip
    half, middle = max(len(links), 2) / 2, (len(links) - 1) / 2  # a link alone has the middle, and no broad bar
    axes.set_xlim(middle - half - 0.1, middle + half + 0.1)
    axes.set_ylim(0, 1.15 * max([*alone, *together, 1e-9]))


def _describe_links(found: HostMeasurements, links: Sequence[LinkRow]) -> str:
    parts = []
    for way, words in _WORDS.items():
        alone = [link["alone"][way] / GB for link in links if way in link["alone"]]
        shares = [share for link in links if (share := link["share_of_alone"].get(way)) is not None]
        if alone:
            said = f"{words} {_range(alone)} GB/s alone"
            said += f", {_percent(shares)} of it all at once" if shares else ""
            parts.append(said)
    total = [stage["bytes_per_s"] / GB for stage in found.get("stages") or () if stage["kind"] == "together"]
    best = f" Together they carry up to {max(total):.3g} GB/s." if total else ""
    return f"{format_count(len(links), 'link')}, each alone and all at once: {'; '.join(parts)}.{best}"


def _describe_traffic(found: HostMeasurements, links: Sequence[LinkRow]) -> str:
    stages = found.get("stages") or []
    window = found["traces"]["window_s"] * 1e3
    return (
        f"What the counters of {format_count(len(links), 'link')} saw in {len(stages)} stages, in windows of "
        f"{window:.0f} ms: while one is driven the others rest, and in the grey stages all are at work."
    )


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"


def _percent(shares: Sequence[float]) -> str:
    low, high = f"{min(shares):.0%}", f"{max(shares):.0%}"
    return low if low == high else f"{low} to {high}"


def _gb(mb_per_s: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if rate is None else rate / 1e3 for rate in mb_per_s], dtype=float)


def _largest(series: Iterable[Sequence[float | None]]) -> float:
    rates = [float(np.nanmax(_gb(one), initial=0.0)) for one in series]
    return max(rates, default=0.0)
