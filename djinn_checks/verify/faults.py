"""A faults outcome's rows from what it says of each fault and each clean run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from djinn_checks.measurements import faults
from djinn_checks.outcome import Outcome
from djinn_checks.verify.finding import Finding, agrees, believed, compare, disagrees


def verify_faults(folder: Path, name: str, outcome: Outcome, traces: Path | None) -> Iterator[Finding]:
    """Derive each fault's verdict from the criteria that failed, and the alarms of each clean run."""
    file, found = f"{name}.outcome.json", faults.read(outcome.measurements)
    for fault in found.get("faults") or ():
        is_caught = fault["caught_by"] in fault["alarms"]
        if (fault["verdict"] == "caught") == is_caught or fault["verdict"] == "not applicable":
            yield agrees(file, fault["name"], "its alarms, and the criterion that was named beforehand")
        else:
            said = f"{fault['caught_by']} is {'' if is_caught else 'not '}among its alarms"
            yield disagrees(file, fault["name"], f"says {fault['verdict']!r}, and {said}")
    for what, clean in (found.get("clean") or {}).items():
        row = next((row for row in outcome.criteria if row.name == f"{what}_false_alarms"), None)
        if row is not None and row.observed is not None:
            yield compare(file, row.name, row.observed, clean["false_alarms"], "the clean runs")
    yield believed(file, "that each fault was planted", "the runs with faults leave no readings")
