"""The matrix of faults and criteria, the floors of detection and the false alarms, from an outcome's measurements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap

from djinn_checks.outcome import Outcome
from djinn_checks.report.plots import EQUAL, MARK, SYSTEM, Plot, make_figure
from djinn_checks.report.tables import Html, render_table

_EMPTY, _ALSO, _NAMED, _MISSED, _ABSENT = range(5)


def plot_matrix(outcome: Outcome, check: str) -> Plot:
    """Which criterion raised an alarm for which fault of a check; the one that was named beforehand stands out."""
    rows = [row for row in _faults(outcome) if row["check"] == check]
    planted = [row for row in rows if row["verdict"] != "not applicable"]
    if not planted:
        return Plot(None, f"No fault of the {check} check was planted.")
    columns = _columns(rows)
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


_WORDS = {"caught": ("named", "white"), "MISSED": ("MISSED", "white"), "not applicable": ("n/a", "black")}


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


def tabulate_floors(outcome: Outcome) -> Html:
    """Return how little of each fault each criterion still saw."""
    rows = list(list_floors(outcome))
    if not rows:
        return Html("<p>No smaller dose was planted.</p>")
    columns = ("Fault", "Criterion", "Smallest dose caught", "Largest that escaped", "Dose")
    return render_table("Floors of detection, as measured", columns, rows, numeric=False)


def list_floors(outcome: Outcome) -> Iterator[tuple[str, str, str, str, str]]:
    """Give (fault, criterion, smallest dose caught, largest that escaped it, unit), the named criterion first.

    Other criteria count where they FAIL: what is INCONCLUSIVE for want of a sound instrument has seen nothing.

    Doses are tried from the easiest to catch to the hardest, which need not be from the largest number to the
    smallest: of "one copy in so many" the larger number is less of a defect. A criterion that caught no dose is
    left out, unless it was the named one.
    """
    for row in _faults(outcome):
        doses = row.get("doses") or []
        if not doses:
            continue
        named = row["caught_by"]
        for criterion in _columns([{"caught_by": named, "alarms": one["failed"]} for one in doses]):
            caught = [one["caught"] if criterion == named else criterion in one["failed"] for one in doses]
            seen = [one["size"] for one, is_caught in zip(doses, caught, strict=True) if is_caught]
            missed = [one["size"] for one, is_caught in zip(doses, caught, strict=True) if not is_caught]
            least = f"{seen[-1]:.4g}" if seen else "none of these"
            yield row["name"], criterion, least, f"{missed[0]:.4g}" if missed else "none", row["dose_unit"]


def tabulate_false_alarms(outcome: Outcome) -> Html:
    """Return how often clean systems were accused or left undecided, and why."""
    rows = [
        (
            one["check"],
            one["says"],
            one["runs"],
            one["false_alarms"],
            one.get("undecided", 0),  # earlier versions counted these among the alarms
            "; ".join([*one["alarms"], *one.get("doubts", ())][:2]),
        )
        for one in (outcome.measurements.get("clean") or {}).values()
    ]
    if not rows:
        return Html("<p>No clean system was run.</p>")
    columns = ("Check", "What ran", "Runs", "False alarms", "No verdict", "Why")
    return render_table("Clean systems", columns, rows, numeric=False)


def _faults(outcome: Outcome) -> list[dict[str, Any]]:
    return list(outcome.measurements.get("faults") or [])


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """Return the criteria that were named or alarmed, in the order in which they first appear."""
    found: dict[str, None] = {}
    for row in rows:
        found |= dict.fromkeys([row["caught_by"], *row["alarms"]])
    return list(found)


def _mark(row: dict[str, Any], column: str) -> int:
    if row["verdict"] == "not applicable":
        return _ABSENT
    if column == row["caught_by"]:
        return _NAMED if row["verdict"] == "caught" else _MISSED
    return _ALSO if column in row["alarms"] else _EMPTY
