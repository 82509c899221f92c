"""What was found, in one sentence, as every page tells it: words first, identifiers after them."""

from __future__ import annotations

from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.faults.counts import retell

_SAYS = {Status.FAIL: "does not hold: ", Status.INCONCLUSIVE: "not decided: "}
"""Before the words of a criterion, which are a claim: else they would say the opposite of what was found."""


def tell(outcome: Outcome) -> str:
    """Return an outcome's summary. Where it names the criterion that decided, the criterion's words stand before it."""
    if outcome.check == "faults":
        return retell(outcome)
    for row in outcome.criteria:
        before, found, after = outcome.summary.partition(f"{row.name}: ")
        if found and row.title and (not before or before.endswith((" ", ":"))):
            return f"{before}{_SAYS.get(row.status, '')}{row.title}: {after} ({row.name})"
    return outcome.summary
