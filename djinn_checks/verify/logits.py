"""A logits outcome's rows from the statistics that it keeps, and these from each other.

The logits themselves are not kept, they are gigabytes: what was counted of them in each pass is. So a count is held
against the counts that it has to add up to, and a row against the pass that it speaks of.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from djinn_checks.measurements import logits
from djinn_checks.outcome import Criterion, Observed, Outcome
from djinn_checks.verify.finding import Finding, agrees, believed, compare, disagrees

_SOURCE = "the passes and statistics"
_BELIEVED = {
    "weights_streamed": "the weight witness saw it while it ran",
    "weights_at_use": "the weight witness compared digests while it ran, and of these the names that differed are kept",
    "bytes_claimed_vs_witnessed": "the witness's bytes of each forward are not kept",
    "streamed_in_every_forward": "the link's counters of each forward are not kept",
    "peak_device_memory": "PyTorch's allocator said so while it ran",
    "peak_while_opening": "PyTorch's allocator said so while it ran",
}
_WORST = {
    "l2_whole_tensor": (">=", "l2_whole_max"),
    "top_k_identical": ("<=", "top_k_identical_share"),
    "same_top_token": ("<=", "same_top_token_share"),
}
"""Rows about the worst of all passes, of which the statistics have one."""


def verify_logits(folder: Path, name: str, outcome: Outcome, traces: Path | None) -> Iterator[Finding]:
    """Derive what a logits outcome says again, as far as its statistics go."""
    file, found = f"{name}.outcome.json", logits.read(outcome.measurements)
    statistics, passes = found.get("statistics"), found.get("passes")
    if not statistics or not passes:
        yield believed(file, "all rows", "it ended before there were statistics")
        return
    for side, phases in (("statistics", statistics), ("floor", found.get("floor") or {})):
        for phase, measured in phases.items():
            yield _verify_sums(file, f"{side}.{phase}", measured)
    again = dict(_work_out(found))
    for row in outcome.criteria:
        if row.name in again and row.observed is not None:
            yield compare(file, row.name, row.observed, again[row.name], _SOURCE)
        elif row.name in _WORST and isinstance(row.observed, int | float):
            yield _hold_worst(file, row, statistics)
        else:
            yield believed(
                file,
                row.name,
                _BELIEVED.get(row.name, "its logits are not kept, and what was counted of them is not enough"),
            )


def _work_out(found: logits.LogitsMeasurements) -> Iterator[tuple[str, Observed]]:
    """Return the rows that the passes and statistics say whole."""
    passes, statistics, witness = found["passes"], found["statistics"], found.get("witness")
    claimed = [(row["claimed_bytes"], row["predicted_bytes"]) for row in passes]
    if all(pair[0] == pair[1] and pair[0] is not None for pair in claimed):
        yield "bytes_claimed_vs_planned", 0
    yield "l2_per_position", max(float(row["l2_position_max"]) for row in passes)
    if not any(row["unequal_elements"] for row in passes):
        equal = {"prefill_bit_equal": 0, "decode_bit_equal": 0, "prefill_l2_or_top_k": 0, "decode_l2_or_top_k": 0,
                 "kl_divergence": 0.0, "perplexity_ratio": 0.0, "ulp_distance": 0}  # fmt: skip
        yield from equal.items()  # what equals bit for bit is at no distance
    elif len(passes) == 1:
        for phase, measured in statistics.items():
            yield f"{phase}_bit_equal", measured["unequal_elements"]
            yield f"{phase}_l2_or_top_k", measured["neither_l2_nor_top_k"]
    if len(passes) == 1 or not any(row["unequal_elements"] for row in passes):
        yield "finite_logits", sum(measured["nonfinite"] for measured in statistics.values())
    if witness:
        yield "weights_within_budget", witness["distinct_bytes"]


def _hold_worst(file: str, row: Criterion, statistics: dict[str, logits.LogitsStatistics]) -> Finding:
    comparison, key = _WORST[row.name]
    values = [float(measured[key]) for measured in statistics.values()]  # type: ignore[literal-required]
    told, worst = float(row.observed or 0), max(values) if comparison == ">=" else min(values)
    if told >= worst if comparison == ">=" else told <= worst:
        return agrees(file, row.name, f"no better than {_SOURCE}")
    return disagrees(file, row.name, f"says {told:.6g}, and by {_SOURCE} a pass has {worst:.6g}")


def _verify_sums(file: str, what: str, measured: logits.LogitsStatistics) -> Finding:
    """Hold counts against what they add up to, and percentiles against their order."""
    wrong = [problem for holds, problem in _list_sums(measured) if not holds]
    return disagrees(file, what, "; ".join(wrong)) if wrong else agrees(file, what, "its counts, of each other")


def _list_sums(measured: logits.LogitsStatistics) -> Iterator[tuple[bool, str]]:
    """Return what has to hold of statistics, and what is wrong where it does not."""
    counts, elements, unequal = measured["difference_histogram"], measured["elements"], measured["unequal_elements"]
    binned = counts["zero"] + sum(counts["negative"]) + sum(counts["positive"]) + counts["nan"]
    yield binned == elements, f"its histogram has {binned:,} logits of {elements:,}"
    yield counts["zero"] >= elements - unequal, "fewer logits differ by nothing than are equal"
    margins = sum(measured["margin"]["counts"])
    yield margins in (0, measured["positions"]), "its margins are of another number of positions"
    yield elements % max(1, measured["positions"]) == 0, "its elements are no whole number a position"
    yield unequal > 0 or float(measured["l2_position_max"]) == 0, "equal logits are at a distance"
    kl = measured["kl"]
    order = [float(kl["p50"]), float(kl["p90"]), float(kl["p99"]), float(kl["p999"]), float(kl["max"])]
    yield any(map(math.isnan, order)) or order == sorted(order), "its percentiles of KL are out of order"
    by_both = float(measured["perplexity_system"]), float(measured["perplexity_reference"])
    if all(0 < value < math.inf for value in by_both):
        told = float(measured["perplexity_ratio"])
        yield math.isclose(told, by_both[0] / by_both[1], rel_tol=1e-6), "its perplexities have another ratio"
