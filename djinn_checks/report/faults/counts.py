"""How many faults were planted in a run, how many in evidence that is made to measure, and what became of them."""

from __future__ import annotations

from djinn_checks.measurements.faults import CleanRow, FaultRow, Found, read, summarize_faults
from djinn_checks.outcome import Outcome

_SHORTEST_RUN_S = 0.1
"""Outcomes of earlier versions do not say which evidence was made up; how long each fault took, they do. To judge
made-up evidence took 2 to 6 ms on the H200's host, and the shortest run of any system 1.2 s."""


def list_planted(outcome: Outcome, check: str = "") -> list[FaultRow]:
    """Return the faults that were planted: all, or those of one check."""
    rows = read(outcome.measurements).get("faults") or []
    return [row for row in rows if row["verdict"] != "not applicable" and check in ("", row["check"])]


def list_clean(outcome: Outcome, check: str = "") -> list[tuple[str, CleanRow]]:
    """Return the clean runs by name: all, or those of one check."""
    rows = read(outcome.measurements).get("clean") or {}
    return [(name, row) for name, row in rows.items() if check in ("", row["check"])]


def find_planted(outcome: Outcome, check: str = "") -> Found:
    """Return of each planted fault whether its evidence was made up, and whether it was caught."""
    return [(is_made_up(row, outcome), row["verdict"] == "caught") for row in list_planted(outcome, check)]


def find_clean(outcome: Outcome, check: str = "") -> Found:
    """Return of each clean run whether its evidence was made up, and whether it raised a false alarm."""
    return [
        (row.get("made_up", name.endswith("_evidence")), number < row["false_alarms"])
        for name, row in list_clean(outcome, check)
        for number in range(row["runs"])
    ]


def is_made_up(row: FaultRow, outcome: Outcome) -> bool:
    """Tell whether a fault was planted in evidence that is made to measure, while no system ran."""
    if "made_up" in row:
        return row["made_up"]
    took = (outcome.timings.get("faults_s") or {}).get(row.get("name"))
    return took is not None and took < _SHORTEST_RUN_S


def retell(outcome: Outcome) -> str:
    """Return the summary of an outcome of faults, as it is told of one of this version."""
    rows = list_planted(outcome)
    if not rows:
        return outcome.summary
    escaped = ", ".join(row["name"] for row in rows if row["verdict"] == "MISSED")
    undecided = sum(row.get("undecided", 0) for _, row in list_clean(outcome))
    return summarize_faults(find_planted(outcome), escaped, find_clean(outcome), undecided)
