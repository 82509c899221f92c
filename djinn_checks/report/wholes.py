"""What a count is counted among: "0 of 436,224 elements" says more than "0 elements"."""

from __future__ import annotations

from djinn_checks.measurements import agents, faults, logits
from djinn_checks.outcome import Criterion, Outcome

_PHASES = ("prefill", "decode")


_VERBS = {
    "elements": "differ",
    "positions": "miss both",
    "weights": "differ",
    "tokens": "differ",
    "agents": "differ",
    "runs": "raise one",
}
"""What those that are counted do, by the unit of a count that has to be none."""


def count_words(outcome: Outcome, row: Criterion) -> str:
    """Return a count with what it is counted among, and what is the matter with those; empty where it is no count."""
    whole = find_whole(outcome, row)
    if whole is None:
        return ""
    verb = "not finite" if row.name == "finite_logits" else _VERBS.get(row.unit, "") if row.threshold == 0 else ""
    return f"{row.observed:,} of {whole:,} {row.unit} {verb}".rstrip()


def find_whole(outcome: Outcome, row: Criterion) -> int | None:
    """Return of how many things a criterion counts some; None where it counts none, or that is not known."""
    observed = row.observed
    if isinstance(observed, bool) or not isinstance(observed, int) or row.threshold not in (0, observed):
        return None
    try:
        whole = _FINDERS[outcome.check](outcome, row) if outcome.check in _FINDERS else None
    except (KeyError, TypeError, AttributeError):  # an outcome of another version may lack it
        return None
    return whole if whole is not None and whole >= observed else None


def _of_logits(outcome: Outcome, row: Criterion) -> int | None:
    found = logits.read(outcome.measurements)
    statistics, seen = found.get("statistics") or {}, found.get("witness")
    phase, _, _ = row.name.partition("_")
    if row.unit == "elements" and row.name.endswith("_bit_equal"):
        return statistics[phase]["elements"]
    if row.unit == "positions":
        return statistics[phase]["positions"]
    if row.name == "finite_logits":
        return sum(statistics[phase]["elements"] for phase in _PHASES)
    return seen["weights"] if row.name == "weights_at_use" and seen else None


def _of_agents(outcome: Outcome, row: Criterion) -> int | None:
    found = agents.read(outcome.measurements)
    if row.unit in ("sleeps that differ", "sleeps"):
        return len(found["sleeps"])
    if row.unit == "agents":
        return found["agents"]
    if row.name == "text_equals_twin":
        pieces = [len(turn["slept"]["pieces"]) for turn in found["turns"]]
        return sum(pieces) if min(pieces) > 1 else None  # a server that gives no tokens gives its text in one piece
    return None


def _of_faults(outcome: Outcome, row: Criterion) -> int | None:
    clean = faults.read(outcome.measurements).get("clean") or {}
    name = row.name.removesuffix("_false_alarms")
    return clean[name]["runs"] if name in clean else None


_FINDERS = {"logits": _of_logits, "agents": _of_agents, "faults": _of_faults}
