"""The matrix of faults and criteria, as a figure and as a table, from an outcome's measurements alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap

from djinn_checks.outcome import Outcome
from djinn_checks.report.plots import EQUAL, MARK, SYSTEM, Plot, make_figure
from djinn_checks.report.tables import Html, render_table

_EMPTY, _ALSO, _NAMED, _MISSED = range(4)


def plot_matrix(outcome: Outcome, check: str) -> Plot:
    """Which criterion raised an alarm for which fault of a check; the one that was named beforehand stands out."""
    rows = [row for row in _faults(outcome) if row["check"] == check and row["verdict"] != "not applicable"]
    if not rows:
        return Plot(None, f"No fault of the {check} check was planted.")
    columns = _columns(rows)
    values = np.array([[_mark(row, column) for column in columns] for row in rows])
    figure, (axes,) = make_figure(width=10, height=1.9 + 0.24 * len(rows))
    colours = ListedColormap(["#FFFFFF", EQUAL, SYSTEM, MARK])
    axes.imshow(values, aspect="auto", cmap=colours, vmin=0, vmax=3, interpolation="nearest")
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(-0.5, len(columns)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(rows)), minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.grid(which="major", visible=False)
    axes.tick_params(which="both", length=0)
    for place, row in enumerate(rows):
        word = "named" if row["verdict"] == "caught" else "MISSED"
        axes.text(columns.index(row["caught_by"]), place, word, ha="center", va="center", color="white", fontsize=8)
    caught = sum(row["verdict"] == "caught" for row in rows)
    words = (
        f"Faults of the {check} check against its criteria: {caught} of {len(rows)} were caught by the criterion that "
        "was named beforehand (dark); pale cells are criteria that raised an alarm as well."
    )
    return Plot(figure, words)


def tabulate_faults(outcome: Outcome) -> Html:
    """Return every fault with what it breaks, what it stands for and what became of it."""
    rows = [
        (row["name"], row["check"], row["verdict"], row["caught_by"], row["breaks"], row["modelled_on"])
        for row in _faults(outcome)
    ]
    if not rows:
        return Html("<p>No fault was planted.</p>")
    columns = ("Fault", "Check", "Verdict", "Caught by", "What it breaks", "Modelled on")
    return render_table("Planted faults", columns, rows, numeric=False)


def _faults(outcome: Outcome) -> list[dict[str, Any]]:
    return list(outcome.measurements.get("faults") or [])


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """Return the criteria that were named or alarmed, in the order in which they first appear."""
    found: dict[str, None] = {}
    for row in rows:
        found |= dict.fromkeys([row["caught_by"], *row["alarms"]])
    return list(found)


def _mark(row: dict[str, Any], column: str) -> int:
    if column == row["caught_by"]:
        return _NAMED if row["verdict"] == "caught" else _MISSED
    return _ALSO if column in row["alarms"] else _EMPTY
