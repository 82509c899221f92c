"""Planted faults, the floors of detection and the false alarms as tables, from an outcome's measurements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from djinn_checks.measurements.faults import FaultRow, read
from djinn_checks.outcome import Outcome
from djinn_checks.report.faults.counts import is_made_up
from djinn_checks.report.tables import Html, render_table


def list_faults(outcome: Outcome) -> list[FaultRow]:
    """Return every fault with what became of it, in the order in which they were planted."""
    return list(read(outcome.measurements).get("faults") or [])


def tabulate_faults(outcome: Outcome) -> Html:
    """Return every fault with what it breaks, what it stands for and what became of it; with the turns that it took, if
    agents said anything wrong."""
    has_turns = any(row.get("turns") is not None for row in list_faults(outcome))
    rows = [
        (
            row["name"],
            row["check"],
            _planted_in(row, outcome),
            row["verdict"],
            row["caught_by"],
            *([_turns(row)] if has_turns else []),
            row["breaks"],
            row["modelled_on"],
        )
        for row in list_faults(outcome)
    ]
    if not rows:
        return Html("<p>No fault was planted.</p>")
    turns = ("Turns",) if has_turns else ()
    columns = ("Fault", "Check", "Planted in", "Verdict", "Caught by", *turns, "What it breaks", "Modelled on")
    note = "In a run: a system, a link or a server ran. Made-up evidence is judged alone; only the judgement is tried."
    if has_turns:
        note += " Turns: how many of agents it took until one was told something wrong."
    return render_table("Planted faults", columns, rows, note=note, numeric=False)


def _turns(row: FaultRow) -> str:
    turns = row.get("turns")
    return "" if turns is None else str(turns)


def _planted_in(row: FaultRow, outcome: Outcome) -> str:
    if row["verdict"] == "not applicable":
        return ""
    return "made-up evidence" if is_made_up(row, outcome) else "a run"


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
    for row in list_faults(outcome):
        doses = row.get("doses") or []
        if not doses:
            continue
        named = row["caught_by"]
        for criterion in name_criteria((named, dose["failed"]) for dose in doses):
            caught = [dose["caught"] if criterion == named else criterion in dose["failed"] for dose in doses]
            seen = [dose["size"] for dose, is_caught in zip(doses, caught, strict=True) if is_caught]
            missed = [dose["size"] for dose, is_caught in zip(doses, caught, strict=True) if not is_caught]
            least = f"{seen[-1]:.4g}" if seen else "none of these"
            yield row["name"], criterion, least, f"{missed[0]:.4g}" if missed else "none", row["dose_unit"]


def tabulate_false_alarms(outcome: Outcome) -> Html:
    """Return how often clean systems were accused or left undecided, and why."""
    rows = [
        (
            clean["check"],
            clean["says"],
            clean["runs"],
            clean["false_alarms"],
            clean.get("undecided", 0),  # earlier versions counted these among the alarms
            "; ".join([*clean["alarms"], *clean.get("doubts", ())][:2]),
        )
        for clean in (read(outcome.measurements).get("clean") or {}).values()
    ]
    if not rows:
        return Html("<p>No clean system was run.</p>")
    columns = ("Check", "What ran", "Runs", "False alarms", "No verdict", "Why")
    return render_table("Clean systems", columns, rows, numeric=False)


def name_criteria(alarms: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """Return the criteria in the order in which they first appear.

    Args:
        alarms: of each fault or dose the criterion that was named, and those that raised an alarm.
    """
    found: dict[str, None] = {}
    for named, alarmed in alarms:
        found |= dict.fromkeys([named, *alarmed])
    return list(found)
