"""Outcomes of planted faults for the report's tests; made up."""

from __future__ import annotations

from typing import Any

from djinn_checks.outcome import Outcome, Status


def fault(name: str, **changed: Any) -> dict[str, Any]:
    values = {
        "name": name, "check": "logits", "breaks": "A <row>.", "modelled_on": "x", "caught_by": "weights_at_use",
        "effect": "FAIL", "verdict": "caught", "status": "FAIL", "alarms": ["weights_at_use", "prefill_bit_equal"],
        "attempts": 1,
    }  # fmt: skip
    return values | changed


def found(*faults: dict[str, Any]) -> Outcome:
    return Outcome(check="faults", status=Status.PASS, summary="", measurements={"faults": list(faults)})
