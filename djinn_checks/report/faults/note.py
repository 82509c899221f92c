"""One line in a check's report: how many of the faults planted for it on this machine it caught.

It is said only of faults that were planted where the check ran, and with the package that it ran with: on another
machine, device or version they would say nothing about this verdict.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from djinn_checks.measurements.faults import count_false_alarms, count_faults
from djinn_checks.outcome import Outcome
from djinn_checks.report.faults.counts import find_clean, find_planted, list_clean, list_planted
from djinn_checks.report.tables import Html


def note_faults(outcome: Outcome, beside: Iterable[Outcome]) -> Html | None:
    """Return the line for an outcome, from the latest of those beside it that planted its check's faults; or None."""
    planted = [other for other in beside if other.check == "faults" and list_planted(other, outcome.check)]
    here = [faults for faults in planted if _place(faults) is not None and _place(faults) == _place(outcome)]
    if outcome.check == "faults" or not here:
        return None
    latest = max(here, key=lambda faults: faults.started_at)
    clean = find_clean(latest, outcome.check)
    undecided = sum(row.get("undecided", 0) for _, row in list_clean(latest, outcome.check))
    text = f"On this machine, this check caught {count_faults(find_planted(latest, outcome.check))}"
    text += f", and raised {count_false_alarms(clean)}" if clean else ""
    text += f", {undecided} of them without a verdict." if undecided else "."
    return Html(f'<p class="planted-faults">{escape(text)}</p>')


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
