"""The rows of the logits check: what was measured, held against what must be.

Every number is the worst over all passes. Required rows decide; informative rows have no threshold of their
own and are held against the reference run a second time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from djinn_checks.checks.logits.bench import ReferenceRun, SystemRun
from djinn_checks.checks.logits.prompt_run import PHASES
from djinn_checks.instruments.weight_witness import WeightEvidence
from djinn_checks.measurements.logits import LogitsStatistics
from djinn_checks.outcome import Criterion, judge, skip
from djinn_checks.params import LogitsParams
from djinn_checks.units import format_bytes

Statistic = Callable[[LogitsStatistics], Any]

_unequal: Statistic = itemgetter("unequal_elements")
_neither: Statistic = itemgetter("neither_l2_nor_top_k")
_nonfinite: Statistic = itemgetter("nonfinite")
_l2_position: Statistic = itemgetter("l2_position_max")
_l2_whole: Statistic = itemgetter("l2_whole_max")
_top_k_identical: Statistic = itemgetter("top_k_identical_share")
_same_top_token: Statistic = itemgetter("same_top_token_share")

_WITNESS = "weight witness: every use of a parameter in one forward of the shortest prompt"
_NO_WITNESS = "no weight was seen in use: the system runs compiled, in a CUDA graph or without nn.Module"


@dataclass(frozen=True, kw_only=True)
class LogitsEvidence:
    """Everything that the criteria are judged by."""

    params: LogitsParams
    budget_bytes: int
    reference: ReferenceRun
    system: SystemRun

    def worst(self, phase: str, statistic: Statistic) -> Any:
        """Return the largest value of a statistic of `phase` over the passes."""
        return max(statistic(one.statistics[phase]) for one in self.system.passes)

    def floor(self, phase: str, statistic: Statistic) -> Any:
        """Return the same of the reference against itself."""
        return statistic(self.reference.floor[phase])

    @property
    def sample(self) -> str:
        prompts = len(self.reference.positions)
        return f"{len(self.system.passes)} passes of {prompts} prompts, each against the resident model"


def judge_logits(evidence: LogitsEvidence) -> tuple[Criterion, ...]:
    """Return all criteria of the logits check, required ones first."""
    return (
        _weights_streamed(evidence),
        _weights_within_budget(evidence),
        _weights_at_use(evidence),
        _claimed_vs_planned(evidence),
        _claimed_vs_witnessed(evidence),
        _peak_device_memory(evidence),
        *(_bit_equal(evidence, phase) for phase in PHASES),
        *(_l2_or_top_k(evidence, phase) for phase in PHASES),
        _finite_logits(evidence),
        _peak_while_opening(evidence),
        *_informative(evidence),
    )


def _weights_streamed(evidence: LogitsEvidence) -> Criterion:
    """The pigeonhole proof. Weights that were wrong prove nothing and are left out on both sides."""
    seen, reference = evidence.system.weights, evidence.reference.weights
    observed: int | None = None
    needed = 1
    if seen and reference:
        needed = max(1, reference.bytes_without(seen.different) - evidence.budget_bytes)
        observed = seen.moved_bytes_lower_bound
        if observed < needed and not seen.complete:
            observed = None
    return judge(
        "weights_streamed",
        "At least the weights that the budget cannot hold were written in every pass",
        observed,
        ">=",
        needed,
        unit="bytes",
        evidence=_WITNESS + "; a lower bound: exact weights used minus distinct bytes of memory they were found in",
        missing=_gaps(seen),
        failed="the weights were used from memory that held them all the time; did anything stream?",
    )


def _weights_within_budget(evidence: LogitsEvidence) -> Criterion:
    seen = evidence.system.weights
    observed = seen.distinct_bytes if seen else None
    if seen and not seen.complete and seen.distinct_bytes <= evidence.budget_bytes:
        observed = None
    return judge(
        "weights_within_budget",
        "The weights were used from no more memory than the budget",
        observed,
        "<=",
        evidence.budget_bytes,
        unit="bytes",
        evidence=_WITNESS + "; distinct bytes of memory, in which padding for alignment does not count",
        missing=_gaps(seen),
    )


def _weights_at_use(evidence: LogitsEvidence) -> Criterion:
    seen = evidence.system.weights
    different = seen.different if seen else ()
    return judge(
        "weights_at_use",
        "Every weight had the reference's bytes when it was used",
        len(different) if seen and (different or seen.complete) else None,
        "==",
        0,
        unit="weights",
        evidence=_WITNESS + "; 64-bit digests taken on the device right before the use",
        missing=_gaps(seen),
        failed=_names(different),
    )


def _claimed_vs_planned(evidence: LogitsEvidence) -> Criterion:
    name, title = "bytes_claimed_vs_planned", "The system claims to have moved what it planned, in every forward"
    planned = evidence.system.predicted_bytes
    claims = [(one.number, claim) for one in evidence.system.passes for claim in one.claims]
    if planned is None:
        return skip(name, title, unit="forwards", reason="the system has no plan")
    if any(claim is None for _, claim in claims):
        return skip(name, title, unit="forwards", reason="the system keeps no count of the bytes it moves")
    wrong = [(number, claim) for number, claim in claims if claim != planned]
    example = f"in pass {wrong[0][0]} a forward claims {wrong[0][1]:,} bytes, the plan is {planned:,}" if wrong else ""
    return judge(
        name,
        title,
        len(wrong),
        "==",
        0,
        unit="forwards",
        evidence=f"the system's own count before and after each of {len(claims)} forwards",
        failed=example,
    )


def _claimed_vs_witnessed(evidence: LogitsEvidence) -> Criterion:
    name, title = "bytes_claimed_vs_witnessed", "The system claims no less than was certainly written"
    seen, claim = evidence.system.weights, evidence.system.witnessed_claim
    if claim is None:
        return skip(name, title, unit="bytes", reason="the system keeps no count of the bytes it moves")
    return judge(
        name,
        title,
        claim if seen else None,
        ">=",
        seen.moved_bytes_lower_bound if seen else 0,
        unit="bytes",
        evidence=_WITNESS + ", and the system's own count before and after it",
        missing=_NO_WITNESS,
        failed="more was written than the system counted",
    )


def _peak_device_memory(evidence: LogitsEvidence) -> Criterion:
    return _peak(
        "peak_device_memory",
        "Device memory stayed within the budget and the reference's working set",
        evidence,
        evidence.system.peak_bytes,
        "in every forward",
    )


def _peak_while_opening(evidence: LogitsEvidence) -> Criterion:
    """Informative: weights that are made on the device pass through it, which is not the system's doing."""
    return _peak(
        "peak_while_opening",
        "Device memory stayed within that while the system opened, too",
        evidence,
        evidence.system.opening_peak_bytes,
        "while opening",
        required=False,
    )


def _peak(
    name: str, title: str, evidence: LogitsEvidence, peak: int | None, when: str, *, required: bool = True
) -> Criterion:
    working_set = evidence.reference.working_set_bytes
    if peak is None or working_set is None:
        reason = "there is no device memory to measure: the device is a CPU"
        return skip(name, title, unit="bytes", reason=reason, required=required)
    limit = int((1 + evidence.params.memory_tolerance) * (evidence.budget_bytes + working_set))
    return judge(
        name,
        title,
        peak,
        "<=",
        limit,
        unit="bytes",
        evidence=f"PyTorch's allocator, {when}; working set {format_bytes(working_set)}",
        required=required,
    )


def _bit_equal(evidence: LogitsEvidence, phase: str) -> Criterion:
    found = evidence.system.localisation
    return judge(
        f"{phase}_bit_equal",
        f"Logits of the {phase} equal the resident model's bit for bit",
        evidence.worst(phase, _unequal),
        "==",
        0,
        unit="elements",
        evidence=evidence.sample,
        required=evidence.params.require_bit_equality,
        floor=evidence.floor(phase, _unequal),
        failed=str(found.first) if found and found.first else "",
    )


def _l2_or_top_k(evidence: LogitsEvidence, phase: str) -> Criterion:
    params = evidence.params
    return judge(
        f"{phase}_l2_or_top_k",
        f"At every {phase} position the L2 norm of the difference is below {params.l2_threshold:g} "
        f"or the {params.top_k} most likely tokens are the same",
        evidence.worst(phase, _neither),
        "==",
        0,
        unit="positions",
        evidence=evidence.sample,
        floor=evidence.floor(phase, _neither),
    )


def _finite_logits(evidence: LogitsEvidence) -> Criterion:
    return judge(
        "finite_logits",
        "All logits are finite",
        sum(evidence.worst(phase, _nonfinite) for phase in PHASES),
        "==",
        0,
        unit="elements",
        evidence=evidence.sample,
        floor=sum(evidence.floor(phase, _nonfinite) for phase in PHASES),
    )


def _informative(evidence: LogitsEvidence) -> list[Criterion]:
    def row(
        name: str, title: str, unit: str, statistic: Statistic, comparison: str, limit: float | None = None
    ) -> Criterion:
        """Hold the worst of passes and phases against `limit` or, without one, against the noise floor."""
        worst = min if comparison == ">=" else max
        floor = worst(statistic(evidence.reference.floor[phase]) for phase in PHASES)
        observed = worst(statistic(one.statistics[phase]) for one in evidence.system.passes for phase in PHASES)
        source = "" if limit is not None else ", held against the reference run a second time"
        return judge(
            name,
            title,
            observed,
            comparison,
            floor if limit is None else limit,
            unit=unit,
            evidence=evidence.sample + source,
            required=False,
            floor=None if limit is None else floor,
        )

    limit, k = evidence.params.l2_threshold, evidence.params.top_k
    return [
        row("l2_per_position", "Largest L2 norm of the difference at a position", "logits", _l2_position, "<", limit),
        row("l2_whole_tensor", "Largest L2 norm of the difference over a prompt", "logits", _l2_whole, "<", limit),
        row("top_k_identical", f"Positions with the same {k} likeliest tokens", "share", _top_k_identical, ">="),
        row("same_top_token", "Positions with the same likeliest token", "share", _same_top_token, ">="),
        row("kl_divergence", "Largest KL(reference || system) at a position", "nats", lambda s: s["kl"]["max"], "<="),
        row("perplexity_ratio", "Distance of the perplexity ratio from 1", "share", _perplexity_change, "<="),
        row("ulp_distance", "Largest distance in units in the last place", "ULP", lambda s: s["ulp"]["max"], "<="),
    ]


def _perplexity_change(statistics: LogitsStatistics) -> float:
    change = abs(statistics["perplexity_ratio"] - 1)
    return math.inf if math.isnan(change) else float(change)


def _gaps(seen: WeightEvidence | None) -> str:
    """Return what is missing for a verdict on the weights."""
    if seen is None:
        return _NO_WITNESS
    unseen, unknown = _names(seen.unseen), _names(seen.unknown)
    parts = [f"weights never seen in use: {unseen}"] if unseen else []
    return "; ".join(parts + ([f"weights that the reference does not have: {unknown}"] if unknown else []))


def _names(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
