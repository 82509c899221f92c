"""The logits check's evidence as plain data, for the outcome and the figures made from it."""

from __future__ import annotations

from collections.abc import Sequence

from djinn_checks.checks.logits.bench import SystemPass, SystemRun
from djinn_checks.checks.logits.evidence import LogitsEvidence
from djinn_checks.checks.logits.prompt_run import PHASES
from djinn_checks.instruments.weight_witness import WeightEvidence
from djinn_checks.measurements.logits import LogitsMeasurements, LogitsStatistics, PassRow, Witness
from djinn_checks.outcome import Criterion, Status
from djinn_checks.units import format_bytes


def summarize(evidence: LogitsEvidence, criteria: Sequence[Criterion], status: Status) -> str:
    """Return one sentence with the figure that decides."""
    params, seen = evidence.params, evidence.system.weights
    what = f"{params.system} on {params.model} ({params.dtype})"
    if status is not Status.PASS:
        decisive = next(criterion for criterion in criteria if criterion.required and criterion.status is status)
        return f"{what}: {decisive.name}: {decisive.reason}"
    elements = sum(evidence.worst(phase, lambda statistics: statistics["elements"]) for phase in PHASES)
    unequal = sum(evidence.worst(phase, lambda statistics: statistics["unequal_elements"]) for phase in PHASES)
    equality = "all bit-equal" if unequal == 0 else f"{unequal:,} not bit-equal"
    return (
        f"{what}: {elements:,} logits, {equality} in {params.passes} passes; "
        f"at least {format_bytes(seen.moved_bytes_lower_bound if seen else None)} of weights moved in every forward "
        f"through {format_bytes(evidence.budget_bytes)}"
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
        "floor": reference.floor,
        "passes": [_pass_row(run_pass, run.predicted_bytes) for run_pass in run.passes],
        "witness": _witness_row(run.weights, evidence.budget_bytes),
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
    return {
        "pass": run_pass.number,
        "unequal_elements": sum(statistics["unequal_elements"] for statistics in phases),
        "l2_position_max": max(statistics["l2_position_max"] for statistics in phases),
        "forwards": len(run_pass.claims),
        "claimed_bytes": sum(claims) if len(claims) == len(run_pass.claims) else None,
        "predicted_bytes": None if predicted_bytes is None else predicted_bytes * len(run_pass.claims),
    }


def _witness_row(seen: WeightEvidence | None, budget_bytes: int) -> Witness | None:
    if seen is None:
        return None
    return {
        "weights": len(seen.weights),
        "used_bytes": seen.used_bytes,
        "distinct_bytes": seen.distinct_bytes,
        "moved_bytes_lower_bound": seen.moved_bytes_lower_bound,
        "budget_bytes": budget_bytes,
        "different": list(seen.different),
    }
