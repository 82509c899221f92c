"""The rows of the logits check: what was measured, held against what must be.

Every number is the worst over all passes. Required rows decide; informative rows have no threshold of their
own and are held against the reference run a second time.
"""

from __future__ import annotations

import math
from operator import itemgetter

from djinn_checks.checks.logits.evidence import LogitsEvidence, Statistic
from djinn_checks.checks.logits.link_criteria import judge_link
from djinn_checks.checks.logits.prompt_run import PHASES
from djinn_checks.checks.logits.weight_criteria import judge_weights, weights_were_right
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


_OTHER_ARITHMETIC = (
    "every weight that was seen in use had the reference's bytes, so the arithmetic was another: weights in another "
    "layout or at addresses that 64 does not divide, other kernels, or a head over fewer positions; copy each weight "
    "into a tensor of its own, or give require_bit_equality: false"
)


def judge_evidence(evidence: LogitsEvidence) -> tuple[Criterion, ...]:
    """Return all criteria of the logits check, required ones first."""
    return (
        *judge_weights(evidence),
        *judge_link(evidence),
        _peak_device_memory(evidence),
        *(_bit_equal(evidence, phase) for phase in PHASES),
        *(_l2_or_top_k(evidence, phase) for phase in PHASES),
        _finite_logits(evidence),
        _peak_while_opening(evidence),
        *_informative(evidence),
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
    row = Row(
        f"{phase}_bit_equal",
        f"Logits of the {phase} equal the resident model's bit for bit",
        unit="elements",
        required=evidence.params.require_bit_equality,
    )
    return _judge_count(evidence, row, phase, _unequal, failed=_say_where_and_why(evidence, phase))


def _say_where_and_why(evidence: LogitsEvidence, phase: str) -> str:
    found = evidence.system.localisation
    first = found.first if found else None
    said = [str(first) if first.phase == phase else f"of all differences {first}"] if first else []
    is_near = weights_were_right(evidence) and not evidence.count(phase, _neither) + evidence.count(phase, _nonfinite)
    return "; ".join([*said, _OTHER_ARITHMETIC] if is_near else said)


def _l2_or_top_k(evidence: LogitsEvidence, phase: str) -> Criterion:
    params = evidence.params
    row = Row(
        f"{phase}_l2_or_top_k",
        f"At every {phase} position the L2 norm of the difference is below {params.l2_threshold:g} "
        f"or the {params.top_k} most likely tokens are the same",
        unit="positions",
    )
    return _judge_count(evidence, row, phase, _neither)


def _judge_count(
    evidence: LogitsEvidence, row: Row, phase: str, statistic: Statistic, *, failed: str = ""
) -> Criterion:
    """Hold a count against none; what was not answered, or had no cache to speak for, is no evidence of equality."""
    observed, missing = evidence.count(phase, statistic), ""
    if lost := evidence.missing(phase):
        missing = f"the system gave no logits for {lost} {phase} positions of a pass, and the rest is right"
    elif phase == "decode" and not evidence.reference.keeps_cache:
        missing = (
            "the resident model answers a decode step as if it had no past: it has no cache, so none was shown to work"
        )
    return row.judge(
        None if missing and observed == 0 else observed,
        "==",
        0,
        evidence=evidence.sample,
        floor=evidence.count_floor(phase, statistic),
        missing=missing,
        failed=failed,
    )


def _finite_logits(evidence: LogitsEvidence) -> Criterion:
    row = Row("finite_logits", "All logits are finite", unit="elements")
    return row.judge(
        sum(evidence.count(phase, _nonfinite) for phase in PHASES),
        "==",
        0,
        evidence=evidence.sample,
        floor=sum(evidence.count_floor(phase, _nonfinite) for phase in PHASES),
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
    floor = worst(evidence.floor(phase, statistic) for phase in PHASES)
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
