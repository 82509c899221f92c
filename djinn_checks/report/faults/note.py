"""One line in a check's report: how many of the faults planted for it on this machine it caught.

It is said only of faults that were planted where the check ran, and with the package that it ran with: on another
machine, device or version they would say nothing about this verdict.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from djinn_checks.measurements.faults import FaultRow, read
from djinn_checks.outcome import Outcome
from djinn_checks.report.faults.tables import list_faults
from djinn_checks.report.tables import Html


def note_faults(outcome: Outcome, beside: Iterable[Outcome]) -> Html | None:
    """Return the line for an outcome, from the latest of those beside it that planted its check's faults; or None."""
    planted = [other for other in beside if other.check == "faults" and _planted(other, outcome.check)]
    here = [faults for faults in planted if _place(faults) is not None and _place(faults) == _place(outcome)]
    if outcome.check == "faults" or not here:
        return None
    latest = max(here, key=lambda faults: faults.started_at)
    verdicts = [row["verdict"] for row in _planted(latest, outcome.check)]
    clean = [row for row in (read(latest.measurements).get("clean") or {}).values() if row["check"] == outcome.check]
    runs, alarms = sum(row["runs"] for row in clean), sum(row["false_alarms"] for row in clean)
    undecided = sum(row.get("undecided", 0) for row in clean)
    text = f"This check caught {verdicts.count('caught')} of {len(verdicts)} planted faults on this machine"
    text += f", and raised {alarms or 'no'} false alarm{'s' * (alarms > 1)} in {runs} clean runs" if runs else ""
    text += f", {undecided} of them without a verdict." if undecided else "."
    return Html(f'<p class="planted-faults">{escape(text)}</p>')


def _planted(faults: Outcome, check: str) -> list[FaultRow]:
    return [row for row in list_faults(faults) if row["check"] == check and row["verdict"] != "not applicable"]


def _place(outcome: Outcome) -> tuple[Any, ...] | None:
    """Return what has to be the same: processor, device, its driver, and this package; None if that is not known."""
    environment = outcome.environment
    cpu, gpu = environment.get("cpu") or {}, environment.get("gpu") or {}
    version = (environment.get("packages") or {}).get("djinn-checks")
    if version is None or not cpu:
        return None
    machine = (environment.get("platform"), cpu.get("model"), cpu.get("cores"), cpu.get("threads"))
    device = (environment.get("device"), gpu.get("name"), gpu.get("memory_bytes"), gpu.get("driver"))
    source = environment.get("source") or {}
    return (*machine, *device, version, source.get("commit"), source.get("dirty"))
