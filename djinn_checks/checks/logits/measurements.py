"""The logits check's evidence as plain data, for the outcome and the figures made from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from djinn_checks.checks.logits.bench import SystemPass, SystemRun
from djinn_checks.checks.logits.evidence import LogitsEvidence
from djinn_checks.checks.logits.prompt_run import PHASES
from djinn_checks.measurements.logits import LogitsMeasurements, LogitsStatistics, PassRow, Witness
from djinn_checks.outcome import Criterion, Status
from djinn_checks.units import format_bytes


def summarize(evidence: LogitsEvidence, criteria: Sequence[Criterion], status: Status) -> str:
    """Return one sentence with the figure that decides."""
    params = evidence.params
    what = f"{params.system} on {params.model} ({params.dtype})"
    if status is not Status.PASS:
        decisive = next(criterion for criterion in criteria if criterion.required and criterion.status is status)
        return f"{what}: {decisive.name}: {decisive.reason}"
    elements = sum(evidence.worst(phase, lambda statistics: statistics["elements"]) for phase in PHASES)
    unequal = sum(evidence.worst(phase, lambda statistics: statistics["unequal_elements"]) for phase in PHASES)
    equality = "all bit-equal" if unequal == 0 else f"{unequal:,} not bit-equal"
    return (
        f"{what}: {elements:,} logits, {equality} in {params.passes} passes; "
        f"{_how_it_streamed(evidence, criteria)} through {format_bytes(evidence.budget_bytes)}"
    )


def _how_it_streamed(evidence: LogitsEvidence, criteria: Sequence[Criterion]) -> str:
    """Say how much moved, of which forwards that is known, and who says so."""
    row = next(criterion for criterion in criteria if criterion.name == "weights_streamed")
    counted = next(criterion for criterion in criteria if criterion.name == "streamed_in_every_forward")
    moved = format_bytes(row.observed if isinstance(row.observed, int) else None)
    verb = "were read in place" if any(f.weights and f.weights.host_bytes for f in evidence.watched) else "moved"
    every = ", and in every other by the link's counters," if counted.status is Status.PASS else ""
    return (
        f"at least {moved} of weights {verb} in each of {len(evidence.system.watched)} forwards drawn at random{every}"
    )


def gather_measurements(evidence: LogitsEvidence) -> LogitsMeasurements:
    """Return what the report's tables and figures are made of, as plain data."""
    reference, run = evidence.reference, evidence.system
    return {
        "prompts": [
            {"index": prompt.index, "tokens": prompt.token_ids.shape[1], "text": prompt.text[:80]}
            for prompt in evidence.prompts
        ],
        "statistics": {phase: _worst_pass(run, phase) for phase in PHASES},
        "floor": reference.floor.statistics,
        "passes": [_pass_row(run_pass, run.predicted_bytes) for run_pass in run.passes],
        "witness": _witness_row(evidence),
        "localisation": run.localisation.to_dict() if run.localisation else None,
    }


def _worst_pass(run: SystemRun, phase: str) -> LogitsStatistics:
    """Return the statistics of the pass with the most unequal elements; of equals, the largest distance."""
    of_phase = [run_pass.statistics[phase] for run_pass in run.passes]
    return max(of_phase, key=lambda s: (s["unequal_elements"], s["l2_position_max"], s["kl"]["max"]))


def _pass_row(run_pass: SystemPass, predicted_bytes: int | None) -> PassRow:
    """Bytes are those of the whole pass, all its forwards together."""
    claims = [claim for claim in run_pass.claims if claim is not None]
    phases = run_pass.statistics.values()
    new = run_pass.compared.unforeseen.values()
    return {
        "pass": run_pass.number,
        "unequal_elements": sum(statistics["unequal_elements"] for statistics in (*phases, *new)),
        "l2_position_max": max(statistics["l2_position_max"] for statistics in phases),
        "forwards": len(run_pass.claims),
        "claimed_bytes": sum(claims) if len(claims) == len(run_pass.claims) else None,
        "predicted_bytes": None if predicted_bytes is None else predicted_bytes * len(run_pass.claims),
    }


def _witness_row(evidence: LogitsEvidence) -> Witness | None:
    """Of the watched forwards, the one in which least moved; names of all of them."""
    seen = [found.weights for found in evidence.watched if found.weights is not None]
    if not seen:
        return None
    worst = min(seen, key=lambda weights: (weights.moved_bytes_lower_bound, -weights.distinct_bytes))
    owners: dict[str, str] = {}
    for weights in seen:
        owners |= dict(weights.bytes_of)
    phases = Counter(found.place.phase for found in evidence.system.watched)
    return {
        "weights": len(worst.weights),
        "used_bytes": worst.used_bytes,
        "distinct_bytes": worst.distinct_bytes,
        "host_bytes": worst.host_bytes,
        "moved_bytes_lower_bound": worst.moved_bytes_lower_bound,
        "budget_bytes": evidence.budget_bytes,
        "different": sorted({name for weights in seen for name in weights.different}),
        "bytes_of": dict(sorted(owners.items())),
        "prefills": phases["prefill"],
        "decode_steps": phases["decode"],
        "quiet": sum(found.quiet for found in evidence.system.watched),
        "forwards": len(evidence.system.spans),
    }
