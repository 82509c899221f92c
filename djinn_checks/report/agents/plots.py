"""Figures of the agents check, from an outcome's timings alone. Times in seconds, memory in GB or MB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from djinn_checks.measurements.agents import CrowdTimes, PhaseRow, SleepTimes, read, read_timings
from djinn_checks.outcome import Outcome
from djinn_checks.report.plots import EQUAL, FLOOR, INK, MARK, SYSTEM, Plot, make_figure, set_title
from djinn_checks.units import GB, MB, format_bytes, format_seconds

_WORK = "#E69F00"
_RESTORE = "#009E73"
_PARTS: tuple[tuple[Literal["queue_s", "restore_s", "compute_s"], str, str], ...] = (
    ("queue_s", "queue", FLOOR),
    ("restore_s", "restore", _RESTORE),
    ("compute_s", "first token", _WORK),
)
_STATES = (
    ("computing", ("ACTIVE",), _WORK),
    ("idle on the device", ("IDLE",), "#F0E442"),
    ("moving", ("SWAPPING_OUT", "SWAPPING_IN"), _RESTORE),
    ("asleep on the host", ("SWAPPED",), SYSTEM),
)
_NOT_RUN = "Nothing was measured, so there is nothing to draw."


def plot_timeline(outcome: Outcome) -> Plot:
    """One agent's life: what it does, and the memory of the server's device beneath."""
    timings = read_timings(outcome.timings)
    phases, memory = timings.get("phases"), timings.get("memory")
    if not phases:
        return Plot(None, _NOT_RUN)
    if not memory:
        return Plot(None, "The memory of the server's process could not be read on this machine.")
    at, used = _columns(memory)
    unit, name = _memory_unit(float(used.max()))
    figure, (strip, axes) = make_figure(2, width=10, height=4.0, height_ratios=[0.55, 3.0], share_x=True)
    _draw_phases(strip, phases)
    axes.step(at, used / unit, where="post", color=SYSTEM, linewidth=1.2)
    low, high = float(used.min()) / unit, float(used.max()) / unit
    room = max(0.12 * (high - low), 1e-6)
    axes.set_ylim(low - room, high + 2.2 * room)
    _mark_moves(axes, timings["sleeps"], high + 1.1 * room)
    axes.set_xlim(float(at[0]), float(at[-1]))
    axes.set_xlabel("seconds from the first request")
    axes.set_ylabel(name)
    set_title(axes, "Memory of the server's process, read from outside")
    return Plot(figure, _describe_timeline(outcome, low * unit, high * unit))


def plot_wakes(outcome: Outcome) -> Plot:
    """How long each wake took from request to first token, and its parts; the quickest first."""
    crowd = read_timings(outcome.timings).get("crowd")
    if not crowd or not crowd["wakes"]:
        return Plot(None, "No crowd was asked for (`agents: 0`), so nobody woke under load.")
    wakes = sorted(crowd["wakes"], key=lambda wake: wake["wake_s"])
    total = np.array([wake["wake_s"] for wake in wakes])
    figure, (axes,) = make_figure(width=10, height=3.4)
    places, bottom = np.arange(len(wakes)), np.zeros(len(wakes))
    for part, label, colour in _PARTS:
        values = np.array([wake[part] or 0.0 for wake in wakes])
        axes.bar(places, values, bottom=bottom, width=0.92, color=colour, label=label)
        bottom += values
    if any(wake["queue_s"] is not None for wake in wakes):
        axes.bar(places, np.maximum(total - bottom, 0), bottom=bottom, width=0.92, color=EQUAL, label="on the way")
    else:
        axes.bar(places, total, width=0.92, color=SYSTEM, label="all, by the client")
    for percent, style in ((50, ":"), (99, "--")):
        value = float(np.percentile(total, percent))
        axes.axhline(value, color=INK, linewidth=0.9, linestyle=style)
        axes.annotate(f"p{percent} {format_seconds(value)}", (0, value), xycoords=("axes fraction", "data"),
                      xytext=(4, 3), textcoords="offset points", fontsize=9, color=INK)  # fmt: skip
    axes.set_ylim(0, 1.12 * float(total.max()))
    axes.set_xlim(-0.8, len(wakes) - 0.2)
    axes.set_xticks([])
    axes.set_xlabel(f"{len(wakes)} wakes, the quickest first")
    axes.set_ylabel("seconds to the first token")
    axes.legend(loc="upper left", bbox_to_anchor=(0.12, 1.0), frameon=False, fontsize=9, ncols=4)
    return Plot(figure, _describe_wakes(crowd, total))


def plot_crowd(outcome: Outcome) -> Plot:
    """Sessions by state, and the memory of the device, while all agents hold theirs; of a server with a pool, whose
    memory says nothing, how far each answer is from its twin's."""
    crowd = read_timings(outcome.timings).get("crowd")
    if not crowd:
        return Plot(None, "No crowd was asked for (`agents: 0`).")
    apart = crowd.get("apart_nats") or []
    if crowd.get("host_tokens") is not None and len(apart) == len(crowd["turns"]) and set(apart) != {None}:
        return _plot_distances(outcome, crowd)
    draws = [draw for draw, known in ((_draw_states, crowd["states"]), (_draw_memory, crowd["memory"])) if known]
    if not draws:
        return Plot(None, "The server does not list its sessions, and its memory could not be read.")
    figure, panels = make_figure(len(draws), width=10, height=0.6 + 2.5 * len(draws), share_x=True)
    for draw, axes in zip(draws, panels, strict=True):
        draw(axes, outcome, crowd)
    panels[-1].set_xlim(0, crowd["duration_s"])
    panels[-1].set_xlabel("seconds from the first arrival")
    return Plot(figure, _describe_crowd(outcome, crowd))


def _plot_distances(outcome: Outcome, crowd: CrowdTimes) -> Plot:
    ended, nats, is_first = _read_distances(crowd)
    figure, (axes,) = make_figure(width=10, height=3.4)
    for which, colour, label in ((is_first, FLOOR, "first turns"), (~is_first, SYSTEM, "after a pause")):
        axes.scatter(ended[which], nats[which], s=22, color=colour, label=label, linewidths=0, zorder=3)
    row = next((row for row in outcome.criteria if row.name == "crowd_logprobs_equal_twins"), None)
    limit = float(row.threshold) if row is not None and isinstance(row.threshold, int | float) else 0.0
    if limit:
        axes.axhline(limit, color=MARK, linewidth=1.1, linestyle="--")
        axes.annotate("limit after a pause", (1, limit), xycoords=("axes fraction", "data"), xytext=(-4, 4),
                      textcoords="offset points", fontsize=9, color=MARK, ha="right")  # fmt: skip
    axes.set_ylim(0, 1.3 * max(float(nats.max()), limit) or 1.0)
    axes.set_xlim(0, crowd["duration_s"])
    axes.set_xlabel("seconds from the first arrival")
    axes.set_ylabel("nats from the twin")
    axes.legend(loc="upper left", frameon=False, fontsize=9, ncols=2)
    left_out = len(crowd["turns"]) - len(nats)
    besides = f" {left_out} more have none: other lengths, or no log-probabilities." if left_out else ""
    return Plot(
        figure,
        f"{read(outcome.measurements)['agents']} agents over {crowd['duration_s']:.0f} s: the largest difference of a "
        f"log-probability to the twin's in each of {len(nats)} turns, when it ended.{besides} "
        f"{crowd['host_tokens']:,} prompt tokens came from outside the device.",
    )


def _read_distances(crowd: CrowdTimes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return when the turns ended whose distance is known, their nats, and which are an agent's first."""
    agents = [turn[0] for turn in crowd["turns"]]
    firsts = [place == 0 or agents[place - 1] != agent for place, agent in enumerate(agents)]
    rows = [
        (turn[3], nats, first)
        for turn, nats, first in zip(crowd["turns"], crowd.get("apart_nats") or (), firsts, strict=True)
        if nats is not None
    ]
    data = np.array(rows, dtype=float)
    return data[:, 0], data[:, 1], data[:, 2].astype(bool)


def _columns(pairs: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    data = np.array(pairs, dtype=float)
    return data[:, 0], data[:, 1]


def _memory_unit(largest: float) -> tuple[int, str]:
    return (GB, "GB") if largest >= 4 * GB else (MB, "MB")


def _draw_phases(axes: Axes, phases: Sequence[PhaseRow]) -> None:
    colours = {"computes": _WORK, "sleeps": SYSTEM, "wakes": _RESTORE}
    seen: set[str] = set()
    for phase in phases:
        name, width = phase["phase"], phase["end_s"] - phase["start_s"]
        label = name if name not in seen else None
        seen.add(name)
        axes.broken_barh([(phase["start_s"], width)], (0, 1), color=colours[name], label=label, linewidth=0.4)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(bottom=False, labelbottom=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False, fontsize=9, ncols=3, borderaxespad=0.2)


def _mark_moves(axes: Axes, sleeps: Sequence[SleepTimes], height: float) -> None:
    for sleep in sleeps:
        for at, arrow in ((sleep["told_s"], "▼"), (sleep["woken_s"], "▲")):
            axes.axvline(at, color=MARK, linewidth=0.8, linestyle=(0, (2, 2)))
            axes.annotate(arrow, (at, height), color=MARK, fontsize=9, ha="center", va="center")


def _draw_states(axes: Axes, outcome: Outcome, crowd: CrowdTimes) -> None:
    at = [at_s for at_s, _ in crowd["states"]]
    rows = [
        [sum(sessions.get(state, 0) for state in states) for _, sessions in crowd["states"]] for _, states, _ in _STATES
    ]
    labels, colours = [name for name, _, _ in _STATES], [colour for _, _, colour in _STATES]
    axes.stackplot(at, rows, labels=labels, colors=colours, step="post", linewidth=0)
    axes.set_ylim(0, 1.25 * max(read(outcome.measurements)["agents"], 1))
    axes.set_ylabel("sessions")
    axes.legend(loc="upper left", frameon=False, fontsize=9, ncols=4)


def _draw_memory(axes: Axes, outcome: Outcome, crowd: CrowdTimes) -> None:
    at, used = _columns(crowd["memory"])
    unit, name = _memory_unit(float(used.max()))
    budget = float(outcome.params["kv_device_gb"]) * GB
    base = float(used[at <= 0][-1]) if (at <= 0).any() else float(used[0])
    axes.step(at, used / unit, where="post", color=SYSTEM, linewidth=1.1)
    axes.axhline((base + budget) / unit, color=MARK, linewidth=1.1, linestyle="--")
    axes.annotate("before the crowd + KV budget", (1, (base + budget) / unit), xycoords=("axes fraction", "data"),
                  xytext=(-4, 4), textcoords="offset points", fontsize=9, color=MARK, ha="right")  # fmt: skip
    low, high = min(base, float(used.min())), max(base + budget, float(used.max()))
    axes.set_ylim((low - 0.1 * (high - low)) / unit, (high + 0.25 * (high - low)) / unit)
    axes.set_ylabel(name)


def _describe_timeline(outcome: Outcome, low: float, high: float) -> str:
    timings = read_timings(outcome.timings)
    changes = timings.get("memory_changes") or []
    moved = f"; asleep it fell by {format_bytes(changes[0][0])}" if changes else ""
    return (
        f"One agent, {len(timings['sleeps'])} sleeps: {timings['memory_source']}, between {format_bytes(low)} and "
        f"{format_bytes(high)}{moved}. ▼ the agent goes to sleep, ▲ it is woken."
    )


def _describe_wakes(crowd: CrowdTimes, total: np.ndarray) -> str:
    restore = crowd.get("restore_p99_s")
    back = f", of which the restore p99 {format_seconds(restore)}" if restore else ""
    load = crowd.get("offered_load")
    at = f" at an offered load of {load:.2f}" if load is not None else ""
    return (
        f"{len(total)} wakes{at}: from request to first token p50 {format_seconds(float(np.percentile(total, 50)))}, "
        f"p99 {format_seconds(float(np.percentile(total, 99)))}{back}."
    )


def _describe_crowd(outcome: Outcome, crowd: CrowdTimes) -> str:
    resident = [
        sum(count for state, count in sessions.items() if state != "SWAPPED") for _, sessions in crowd["states"]
    ]
    most = f", at most {max(resident)} of them on the device or on their way" if resident else ""
    moves = f"; {crowd['swaps']} swaps and {crowd['restores']} restores" if crowd["swaps"] is not None else ""
    found = crowd.get("pressure")
    full = f"; within 10 % of the budget for {found['near_budget']:.0%} of the time" if found else ""
    return (
        f"{read(outcome.measurements)['agents']} agents over {crowd['duration_s']:.0f} s on a KV budget of "
        f"{format_bytes(float(outcome.params['kv_device_gb']) * GB)}{most}{moves}{full}."
    )
