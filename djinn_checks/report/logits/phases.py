"""The phases in which the logits check compared anything: prefill, decode, or neither."""

from __future__ import annotations

from djinn_checks.measurements.logits import LogitsStatistics, read
from djinn_checks.outcome import Outcome

PHASES = ("prefill", "decode")


def measured_phases(outcome: Outcome) -> list[tuple[str, LogitsStatistics, LogitsStatistics]]:
    """Return (phase, system, floor) of the phases that were measured."""
    found = read(outcome.measurements)
    system, floor = found.get("statistics") or {}, found.get("floor") or {}
    return [(phase, system[phase], floor[phase]) for phase in PHASES if system.get(phase) and floor.get(phase)]
