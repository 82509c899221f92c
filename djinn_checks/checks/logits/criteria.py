"""The rows of the logits check: what was measured, held against what must be.

Every number is the worst over all passes. Required rows decide; informative rows have no threshold of their
own and are held against the reference run a second time.
"""

from __future__ import annotations

import math
from operator import itemgetter

from djinn_checks.checks.logits.evidence import LogitsEvidence, Statistic
from djinn_checks.checks.logits.prompt_run import PHASES
from djinn_checks.instruments.weight_witness import WeightEvidence
from djinn_checks.measurements.logits import LogitsStatistics
from djinn_checks.outcome import Criterion, Row
from djinn_checks.units import format_bytes

_unequal: Statistic = itemgetter("unequal_elements")
_neither: Statistic = itemgetter("neither_l2_nor_top_k")
_nonfinite: Statistic = itemgetter("nonfinite")
_l2_position: Statistic = itemgetter("l2_position_max")
_l2_whole: Statistic = itemgetter("l2_whole_max")
_same_top_k: Statistic = itemgetter("top_k_identical_share")
_same_top_token: Statistic = itemgetter("same_top_token_share")

_WITNESS = "weight witness: every use of a parameter in one forward of the shortest prompt"
_NO_COUNT = "the system keeps no count of the bytes it moves"
_NO_WITNESS = "no weight was seen in use: the system runs compiled, in a CUDA graph or without nn.Module"


def judge_evidence(evidence: LogitsEvidence) -> tuple[Criterion, ...]:
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
    row = Row(
        "weights_streamed", "At least the weights that the budget cannot hold were written in every pass", unit="bytes"
    )
    return row.judge(
        observed,
        ">=",
        needed,
        evidence=_WITNESS + "; a lower bound: exact weights used minus distinct bytes of memory they were found in",
        missing=_gaps(seen),
        failed="the weights were used from memory that held them all the time; did anything stream?",
    )


def _weights_within_budget(evidence: LogitsEvidence) -> Criterion:
    seen = evidence.system.weights
    observed = seen.distinct_bytes if seen else None
    if seen and not seen.complete and seen.distinct_bytes <= evidence.budget_bytes:
        observed = None
    row = Row("weights_within_budget", "The weights were used from no more memory than the budget", unit="bytes")
    return row.judge(
        observed,
        "<=",
        evidence.budget_bytes,
        evidence=_WITNESS + "; distinct bytes of memory, in which padding for alignment does not count",
        missing=_gaps(seen),
    )


def _weights_at_use(evidence: LogitsEvidence) -> Criterion:
    seen = evidence.system.weights
    different = seen.different if seen else ()
    row = Row("weights_at_use", "Every weight had the reference's bytes when it was used", unit="weights")
    return row.judge(
        len(different) if seen and (different or seen.complete) else None,
        "==",
        0,
        evidence=_WITNESS + "; 64-bit digests taken on the device right before the use",
        missing=_gaps(seen),
        failed=_names(different),
    )


def _claimed_vs_planned(evidence: LogitsEvidence) -> Criterion:
    row = Row(
        "bytes_claimed_vs_planned",
        "The system claims to have moved what it planned, in every forward",
        unit="forwards",
    )
    planned = evidence.system.predicted_bytes
    claims = [(run_pass.number, claim) for run_pass in evidence.system.passes for claim in run_pass.claims]
    if planned is None:
        return row.skip("the system has no plan")
    if any(claim is None for _, claim in claims):
        return row.skip(_NO_COUNT)
    wrong = [(number, claim) for number, claim in claims if claim != planned]
    example = f"in pass {wrong[0][0]} a forward claims {wrong[0][1]:,} bytes, the plan is {planned:,}" if wrong else ""
    return row.judge(
        len(wrong),
        "==",
        0,
        evidence=f"the system's own count before and after each of {len(claims)} forwards",
        failed=example,
    )


def _claimed_vs_witnessed(evidence: LogitsEvidence) -> Criterion:
    row = Row("bytes_claimed_vs_witnessed", "The system claims no less than was certainly written", unit="bytes")
    seen, claim = evidence.system.weights, evidence.system.witnessed_claim
    if claim is None:
        return row.skip(_NO_COUNT)
    if evidence.system.encodes:
        return row.skip("it claims bytes on the wire, and the weights that were seen have more than travel encoded")
    return row.judge(
        claim if seen else None,
        ">=",
        seen.moved_bytes_lower_bound if seen else 0,
        evidence=_WITNESS + ", and the system's own count before and after it",
        missing=_NO_WITNESS,
        failed="more was written than the system counted",
    )


def _peak_device_memory(evidence: LogitsEvidence) -> Criterion:
    title = "Device memory stayed within the budget and the reference's working set"
    row = Row("peak_device_memory", title, unit="bytes")
    return _judge_peak(row, evidence, evidence.system.peak_bytes, "in every forward")


def _peak_while_opening(evidence: LogitsEvidence) -> Criterion:
    """Informative: weights that are made on the device pass through it, which is not the system's doing."""
    title = "Device memory stayed within that while the system opened, too"
    row = Row("peak_while_opening", title, unit="bytes", required=False)
    return _judge_peak(row, evidence, evidence.system.opening_peak_bytes, "while opening")


def _judge_peak(row: Row, evidence: LogitsEvidence, peak: int | None, when: str) -> Criterion:
    working_set = evidence.reference.working_set_bytes
    if peak is None or working_set is None:
        return row.skip("there is no device memory to measure: the device is a CPU")
    limit = int((1 + evidence.params.memory_tolerance) * (evidence.budget_bytes + working_set))
    return row.judge(
        peak,
        "<=",
        limit,
        evidence=f"PyTorch's allocator, {when}; working set {format_bytes(working_set)}",
    )


def _bit_equal(evidence: LogitsEvidence, phase: str) -> Criterion:
    found = evidence.system.localisation
    row = Row(
        f"{phase}_bit_equal",
        f"Logits of the {phase} equal the resident model's bit for bit",
        unit="elements",
        required=evidence.params.require_bit_equality,
    )
    return row.judge(
        evidence.worst(phase, _unequal),
        "==",
        0,
        evidence=evidence.sample,
        floor=evidence.floor(phase, _unequal),
        failed=str(found.first) if found and found.first else "",
    )


def _l2_or_top_k(evidence: LogitsEvidence, phase: str) -> Criterion:
    params = evidence.params
    row = Row(
        f"{phase}_l2_or_top_k",
        f"At every {phase} position the L2 norm of the difference is below {params.l2_threshold:g} "
        f"or the {params.top_k} most likely tokens are the same",
        unit="positions",
    )
    return row.judge(
        evidence.worst(phase, _neither),
        "==",
        0,
        evidence=evidence.sample,
        floor=evidence.floor(phase, _neither),
    )


def _finite_logits(evidence: LogitsEvidence) -> Criterion:
    row = Row("finite_logits", "All logits are finite", unit="elements")
    return row.judge(
        sum(evidence.worst(phase, _nonfinite) for phase in PHASES),
        "==",
        0,
        evidence=evidence.sample,
        floor=sum(evidence.floor(phase, _nonfinite) for phase in PHASES),
    )


def _informative(evidence: LogitsEvidence) -> list[Criterion]:
    limit, k = evidence.params.l2_threshold, evidence.params.top_k

    def row(name: str, title: str, unit: str) -> Row:
        return Row(name, title, unit=unit, required=False)

    table: list[tuple[Row, Statistic, str, float | None]] = [
        (row("l2_per_position", "Largest L2 norm of the difference at a position", "logits"), _l2_position, "<", limit),
        (row("l2_whole_tensor", "Largest L2 norm of the difference over a prompt", "logits"), _l2_whole, "<", limit),
        (row("top_k_identical", f"Positions with the same {k} likeliest tokens", "share"), _same_top_k, ">=", None),
        (row("same_top_token", "Positions with the same likeliest token", "share"), _same_top_token, ">=", None),
        (row("kl_divergence", "Largest KL(reference || system) at a position", "nats"), _kl, "<=", None),
        (row("perplexity_ratio", "Distance of the perplexity ratio from 1", "share"), _perplexity_change, "<=", None),
        (row("ulp_distance", "Largest distance in units in the last place", "ULP"), _ulps, "<=", None),
    ]
    return [_judge_worst(evidence, *entry) for entry in table]


def _kl(statistics: LogitsStatistics) -> float:
    return float(statistics["kl"]["max"])


def _ulps(statistics: LogitsStatistics) -> int:
    return int(statistics["ulp"]["max"])


def _judge_worst(
    evidence: LogitsEvidence, row: Row, statistic: Statistic, comparison: str, limit: float | None
) -> Criterion:
    """Hold the worst of passes and phases against `limit` or, without one, against the noise floor."""
    worst = min if comparison == ">=" else max
    floor = worst(statistic(evidence.reference.floor[phase]) for phase in PHASES)
    observed = worst(statistic(run_pass.statistics[phase]) for run_pass in evidence.system.passes for phase in PHASES)
    source = "" if limit is not None else ", held against the reference run a second time"
    return row.judge(
        observed,
        comparison,
        floor if limit is None else limit,
        evidence=evidence.sample + source,
        floor=None if limit is None else floor,
    )


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
