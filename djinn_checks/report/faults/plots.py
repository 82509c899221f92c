"""Figure of the faults: which criterion saw which fault, from an outcome's measurements alone."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import ListedColormap

from djinn_checks.measurements.faults import FaultRow, count_faults
from djinn_checks.outcome import Outcome
from djinn_checks.report.faults.counts import find_planted, is_made_up, list_planted
from djinn_checks.report.faults.tables import list_faults, name_criteria
from djinn_checks.report.plots import CELL, EQUAL, MARK, SYSTEM, Plot, make_figure

_EMPTY, _ALSO, _NAMED, _MISSED, _ABSENT = range(5)
_PALE = "#7FB7D9"
"""What was caught in made-up evidence: the same hue as what was caught in a run, and less of it."""
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
    axes.set_yticks(range(len(rows)), [_name(row, outcome) for row in rows])
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(-0.5, len(columns)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(rows)), minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.grid(which="major", visible=False)
    axes.tick_params(which="both", length=0)
    for place, row in enumerate(rows):
        word, colour = _WORDS[row["verdict"]]
        column = columns.index(row["caught_by"])
        axes.text(column, place, word, ha="center", va="center", color=colour, fontsize=8, gid=CELL)
    absent = len(rows) - len(planted)
    words = (
        f"Faults of the {check} check against its criteria. Caught by the criterion that was named beforehand (dark): "
        f"{count_faults(find_planted(outcome, check))}; pale cells are criteria that raised an alarm as well"
    )
    words += f"; {absent} do not apply to this machine (n/a)." if absent else "."
    return Plot(figure, words)


def _name(row: FaultRow, outcome: Outcome) -> str:
    made_up = row["verdict"] != "not applicable" and is_made_up(row, outcome)
    return f"{row['name']} (made up)" if made_up else row["name"]


def _mark(row: FaultRow, column: str) -> int:
    if row["verdict"] == "not applicable":
        return _ABSENT
    if column == row["caught_by"]:
        return _NAMED if row["verdict"] == "caught" else _MISSED
    return _ALSO if column in row["alarms"] else _EMPTY


def plot_counts(outcome: Outcome) -> Plot:
    """How many faults were caught, check by check: those planted in a run, and those in made-up evidence."""
    planted = list_planted(outcome)
    groups = [
        (check, made_up, [row["verdict"] for row in planted if row["check"] == check
                          and is_made_up(row, outcome) is made_up])
        for check in dict.fromkeys(row["check"] for row in planted) for made_up in (False, True)
    ]  # fmt: skip
    groups = [group for group in groups if group[2]]
    if not groups:
        return Plot(None, "No fault was planted.")
    figure, (axes,) = make_figure(width=10, height=1.0 + 0.42 * len(groups))
    places = range(len(groups))
    caught = [verdicts.count("caught") for _, _, verdicts in groups]
    missed = [len(verdicts) - count for (_, _, verdicts), count in zip(groups, caught, strict=True)]
    colours = [_PALE if made_up else SYSTEM for _, made_up, _ in groups]
    axes.barh(places, caught, color=colours, height=0.62)
    axes.barh(places, missed, left=caught, color=MARK, height=0.62)
    for place, (_, _, verdicts) in enumerate(groups):
        escaped = f", {missed[place]} escaped" if missed[place] else ""
        text = f"{caught[place]} of {len(verdicts)} caught{escaped}"
        axes.annotate(text, (len(verdicts), place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9)
    names = [f"{check}: {'in made-up evidence' if made_up else 'in a run'}" for check, made_up, _ in groups]
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max(len(verdicts) for _, _, verdicts in groups))
    axes.set_xlabel("faults")
    axes.locator_params(axis="x", integer=True)  # there is no half of a fault
    axes.grid(visible=False)
    words = f"Caught by the criterion that was named beforehand: {count_faults(find_planted(outcome))}."
    return Plot(figure, words)
