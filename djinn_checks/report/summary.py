"""What was found, in one sentence, as every page tells it: words first, identifiers after them."""

from __future__ import annotations

from djinn_checks.outcome import Outcome
from djinn_checks.report.faults.counts import retell


def tell(outcome: Outcome) -> str:
    """Return an outcome's summary. Where it names the criterion that decided, the criterion's words stand before it."""
    if outcome.check == "faults":
        return retell(outcome)
    for row in outcome.criteria:
        before, found, after = outcome.summary.partition(f"{row.name}: ")
        if found and row.title and (not before or before.endswith((" ", ":"))):
            return f"{before}{row.title}: {after} ({row.name})"
    return outcome.summary
