"""Figure of the faults: which criterion saw which fault, from an outcome's measurements alone."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import ListedColormap

from djinn_checks.measurements.faults import FaultRow
from djinn_checks.outcome import Outcome
from djinn_checks.report.faults.tables import list_faults, name_criteria
from djinn_checks.report.plots import EQUAL, MARK, SYSTEM, Plot, make_figure

_EMPTY, _ALSO, _NAMED, _MISSED, _ABSENT = range(5)
_WORDS = {"caught": ("named", "white"), "MISSED": ("MISSED", "white"), "not applicable": ("n/a", "black")}


def plot_matrix(outcome: Outcome, check: str) -> Plot:
    """Which criterion raised an alarm for which fault of a check; the one that was named beforehand stands out."""
    rows = [row for row in list_faults(outcome) if row["check"] == check]
    planted = [row for row in rows if row["verdict"] != "not applicable"]
    if not planted:
        return Plot(None, f"No fault of the {check} check was planted.")
    columns = name_criteria((row["caught_by"], row["alarms"]) for row in rows)
    values = np.array([[_mark(row, column) for column in columns] for row in rows])
    figure, (axes,) = make_figure(width=10, height=1.9 + 0.24 * len(rows))
    colours = ListedColormap(["#FFFFFF", EQUAL, SYSTEM, MARK, "#F0F0F0"])
    axes.imshow(values, aspect="auto", cmap=colours, vmin=0, vmax=4, interpolation="nearest")
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(-0.5, len(columns)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(rows)), minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.grid(which="major", visible=False)
    axes.tick_params(which="both", length=0)
    for place, row in enumerate(rows):
        word, colour = _WORDS[row["verdict"]]
        axes.text(columns.index(row["caught_by"]), place, word, ha="center", va="center", color=colour, fontsize=8)
    caught, absent = sum(row["verdict"] == "caught" for row in planted), len(rows) - len(planted)
    words = (
        f"Faults of the {check} check against its criteria: {caught} of {len(planted)} were caught by the criterion "
        "that was named beforehand (dark); pale cells are criteria that raised an alarm as well"
    )
    words += f"; {absent} do not apply to this machine (n/a)." if absent else "."
    return Plot(figure, words)


def _mark(row: FaultRow, column: str) -> int:
    if row["verdict"] == "not applicable":
        return _ABSENT
    if column == row["caught_by"]:
        return _NAMED if row["verdict"] == "caught" else _MISSED
    return _ALSO if column in row["alarms"] else _EMPTY
