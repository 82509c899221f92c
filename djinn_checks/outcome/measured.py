"""Rows against the measurements of the same outcome: a figure that stands in both is the same in both.

What is compared is of its shape already (`fields.py`). Where a measurement is missing, as in an outcome of an earlier
version or of a run that stopped early, nothing is compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from djinn_checks.measurements import agents, faults, host, logits, pcie
from djinn_checks.outcome.criterion import Criterion, format_quantity
from djinn_checks.outcome.status import Observed, Status

Rows = Mapping[str, Criterion]

_ROUNDING_MB_PER_S = 0.5
"""Windows are written in whole MB/s."""
_OF_DURATION = 0.9
"""A run is measured for as long as it was asked for, give or take a pass."""
_MB = 10**6


def find_disagreements(
    check: str, rows: Rows, params: Mapping[str, Any], measurements: Mapping[str, Any]
) -> Iterator[str]:
    """Return where rows or parameters say otherwise than the measurements do, each in a clause."""
    if check == "logits":
        yield from _of_logits(rows, params, logits.read(measurements))
    elif check == "pcie":
        yield from _of_pcie(rows, params, pcie.read(measurements))
    elif check == "agents":
        yield from _of_agents(rows, params, agents.read(measurements))
    elif check == "host":
        yield from _of_host(rows, host.read(measurements))
    elif check == "faults":
        yield from _of_faults(rows, faults.read(measurements))


def _of_logits(rows: Rows, params: Mapping[str, Any], found: logits.LogitsMeasurements) -> Iterator[str]:
    statistics = found.get("statistics") or {}
    for phase, measured in statistics.items():
        yield from _compare_least(rows, f"{phase}_bit_equal", measured["unequal_elements"])
        yield from _compare_least(rows, f"{phase}_l2_or_top_k", measured["neither_l2_nor_top_k"])
    if statistics:
        nonfinite = sum(measured["nonfinite"] for measured in statistics.values())
        yield from _compare_least(rows, "finite_logits", nonfinite)
    passes = found.get("passes") or []
    unequal = max((float(one["unequal_elements"]) for one in passes), default=0.0)
    total = [rows[name].observed for name in ("prefill_bit_equal", "decode_bit_equal") if name in rows]
    if unequal and all(value == 0 for value in total):
        yield f"the rows about bit-equality say 0 elements, and the measurements have a pass with {unequal:,.0f}"
    witness = found.get("witness")
    if witness:
        yield from _compare(rows, "weights_at_use", len(witness["different"]))
        yield from _compare_threshold(rows, "weights_within_budget", witness["budget_bytes"])
        yield from _compare_least(rows, "weights_within_budget", witness["distinct_bytes"])
    if witness and "forwards" in witness:
        yield from _compare_moved(rows, witness)
    elif witness:
        yield from _compare(rows, "weights_streamed", witness["moved_bytes_lower_bound"])
        if not witness["different"] and "weights_at_use" in rows and rows["weights_at_use"].observed == 0:
            yield from _compare_least_threshold(
                rows, "weights_streamed", max(1, witness["used_bytes"] - witness["budget_bytes"])
            )
    yield from _compare_count(params, "passes", len(passes), "passes")
    asked, ran = params.get("prompts"), len(found.get("prompts") or ())
    if isinstance(asked, list):
        asked = len(asked)
    yield from _compare_count({"prompts": asked}, "prompts", ran, "prompts")


def _compare_moved(rows: Rows, witness: logits.Witness) -> Iterator[str]:
    """The forward in which least moved is written down; a row that holds, holds of it. In place the link decides."""
    row = rows.get("weights_streamed")
    if row is None or row.status is not Status.PASS or witness.get("host_bytes") or witness["different"]:
        return
    if isinstance(row.threshold, int | float) and witness["moved_bytes_lower_bound"] < row.threshold:
        yield _differ(row, witness["moved_bytes_lower_bound"])


def _of_pcie(rows: Rows, params: Mapping[str, Any], found: pcie.PcieMeasurements) -> Iterator[str]:
    windows, link, limit = found.get("windows"), found.get("link"), found.get("limit")
    if windows:
        yield from _compare_share(rows, "rx_above_threshold", windows, params.get("threshold_mb_per_s"))
        yield from _compare_param(params, "window_ms", windows["window_s"] * 1e3, "windows of")
        asked = params.get("duration_s")
        is_replay = link is not None and link["subject"] == "replay"
        if isinstance(asked, int | float) and not is_replay and windows["duration_s"] < asked * _OF_DURATION:
            yield f"the parameter duration_s is {asked:g}, and the run was measured for {windows['duration_s']:g} s"
    yield from _of_gpus(rows, found.get("gpus") or ())
    fraction = params.get("ceiling_fraction")
    if windows and link and isinstance(fraction, int | float):
        yield from _compare_share(rows, "rx_of_ceiling", windows, fraction * float(link["ceiling_bytes_per_s"]) / _MB)
    if limit and limit["ratio"] is not None:
        yield from _compare(rows, "time_per_pass_vs_limit", limit["ratio"])


def _of_gpus(rows: Rows, gpus: Sequence[pcie.GpuRow]) -> Iterator[str]:
    """A row of all GPUs is the row of the one whose status is worst, with its number."""
    for name in dict.fromkeys(name for gpu in gpus for name in gpu["statuses"]):
        row, each = rows.get(name), [gpu for gpu in gpus if name in gpu["statuses"]]
        told = {gpu["statuses"][name] for gpu in each}
        status = next((one for one in ("FAIL", "INCONCLUSIVE", "PASS") if one in told), "")
        if row is not None and row.status.value != status:
            yield f"row {name[:80]} is {row.status}, and by the measurements one of its GPUs is {status}"
        elif row is not None and row.observed not in (gpu["observed"][name] for gpu in each):
            yield f"row {name[:80]} says {row.observed}, which it is on none of its GPUs by the measurements"


def _of_agents(rows: Rows, params: Mapping[str, Any], found: agents.AgentsMeasurements) -> Iterator[str]:
    turns, sleeps = found.get("turns") or [], found.get("sleeps")
    row = rows.get("text_equals_twin")
    differ = sum(turn["slept"]["text"] != turn["hot"]["text"] for turn in turns)
    if row and differ and row.observed == 0:
        yield f"row text_equals_twin says 0 tokens, and in {differ} turns of the measurements the texts differ"
    if sleeps is not None:
        yield from _compare_most(rows, "survives_sleep", len(sleeps))
        for name in ("swaps_counted", "restores_counted"):
            yield from _compare_threshold(rows, name, len(sleeps))
    if "agents" in found:
        yield from _compare_count(params, "agents", found["agents"], "agents")


def _of_host(rows: Rows, found: host.HostMeasurements) -> Iterator[str]:
    links, left_out = found.get("links"), found.get("left_out")
    if links is None or left_out is None:
        return
    yield from _compare(rows, "whole_host", len(links))
    yield from _compare(rows, "workers_finished", sum(bool(link["lost"]) for link in links))
    yield from _compare(rows, "copies_arrived", sum(link["verified"] is False for link in links))
    gains = [
        rates["both"] / max(rates["h2d"], rates["d2h"])
        for link in links
        if (rates := link["alone"]).keys() >= {"h2d", "d2h", "both"}
    ]
    yield from _compare_near(rows, "duplex", min(gains, default=None))
    errors = [account["error"] for account in found.get("accounts") or ()]
    if errors and None not in errors:
        yield from _compare_near(rows, "counted_vs_copied", max(error for error in errors if error is not None))
    alone = {way: max((link["alone"].get(way, 0.0) for link in links), default=0.0) for way in ("h2d", "d2h", "both")}
    sums: dict[str, float] = {}
    for stage in found.get("stages") or ():
        if stage["kind"] == "together":
            sums[stage["direction"]] = max(sums.get(stage["direction"], 0.0), stage["bytes_per_s"])
    shares = [rate / alone[way] for way, rate in sums.items() if alone.get(way)]
    yield from _compare_near(rows, "together_at_least_one", min(shares, default=None))


def _compare_near(rows: Rows, name: str, measured: float | None) -> Iterator[str]:
    row = rows.get(name)
    if row is None or measured is None or not isinstance(row.observed, int | float):
        return
    if not math.isclose(row.observed, measured, rel_tol=1e-6, abs_tol=1e-9):
        yield _differ(row, measured)


def _of_faults(rows: Rows, found: faults.FaultsMeasurements) -> Iterator[str]:
    for planted in found.get("faults") or ():
        row = rows.get(planted["name"])
        if planted["verdict"] == "not applicable" or row is None:
            continue
        yield from _compare(rows, planted["name"], "caught" if planted["verdict"] == "caught" else "escaped")
    for name, clean in (found.get("clean") or {}).items():
        yield from _compare_least(rows, f"{name}_false_alarms", clean["false_alarms"])


def _compare(rows: Rows, name: str, measured: Observed) -> Iterator[str]:
    row = rows.get(name)
    if row is not None and row.observed is not None and row.observed != measured and not _are_nan(row, measured):
        yield _differ(row, measured)


def _are_nan(row: Criterion, measured: Observed) -> bool:
    values = (row.observed, float(measured) if measured == "NaN" else measured)
    return all(isinstance(value, float) and math.isnan(value) for value in values)


def _compare_least(rows: Rows, name: str, measured: float) -> Iterator[str]:
    """The row has the worst of all passes, the measurements have one of them."""
    row = rows.get(name)
    if row is not None and isinstance(row.observed, int | float) and row.observed < measured:
        yield _differ(row, measured)


def _compare_most(rows: Rows, name: str, measured: float) -> Iterator[str]:
    row = rows.get(name)
    if row is not None and isinstance(row.observed, int | float) and row.observed > measured:
        yield _differ(row, measured)


def _compare_threshold(rows: Rows, name: str, measured: float) -> Iterator[str]:
    row = rows.get(name)
    if row is not None and row.threshold is not None and row.threshold != measured:
        threshold = format_quantity(row.threshold, row.unit)[:60]
        yield f"row {name} is held against {threshold}, and by the measurements it is {measured:,}"


def _compare_least_threshold(rows: Rows, name: str, least: float) -> Iterator[str]:
    """The row asks for at least so much as the measurements name."""
    row = rows.get(name)
    if row is not None and isinstance(row.threshold, int | float) and row.threshold < least:
        threshold = format_quantity(row.threshold, row.unit)[:60]
        yield f"row {name} is held against {threshold}, and by the measurements it is at least {least:,}"


def _compare_share(rows: Rows, name: str, windows: pcie.Windows, limit: Any) -> Iterator[str]:
    """Hold the share of windows above a limit in MB/s against the windows; those whose evidence is lost count for both
    sides, and so do those that lie so near the limit that their rounding decides.
    """
    row, rates = rows.get(name), windows["rx_mb_per_s"]
    if row is None or not isinstance(row.observed, int | float) or not isinstance(limit, int | float) or not rates:
        return
    numbers = [None if rate is None or math.isnan(float(rate)) else float(rate) for rate in rates]
    lost = numbers.count(None)
    least = sum(rate is not None and rate > limit + _ROUNDING_MB_PER_S for rate in numbers)
    most = sum(rate is not None and rate >= limit - _ROUNDING_MB_PER_S for rate in numbers) + lost
    if not (least - 0.5) / len(numbers) <= row.observed <= (most + 0.5) / len(numbers):
        yield _differ(row, least / len(numbers))


def _compare_count(params: Mapping[str, Any], name: str, measured: int, words: str) -> Iterator[str]:
    """A run that was asked for so many has as many; none at all in one that did not come so far."""
    asked = params.get(name)
    if isinstance(asked, int) and measured and asked != measured:
        yield f"the parameter {name} is {asked:,}, and the measurements have {measured:,} {words}"


def _compare_param(params: Mapping[str, Any], name: str, measured: float, words: str) -> Iterator[str]:
    asked = params.get(name)
    if isinstance(asked, int | float) and not math.isclose(asked, measured, rel_tol=1e-6):
        yield f"the parameter {name} is {asked:g}, and the measurements have {words} {measured:g}"


def _differ(row: Criterion, measured: Observed) -> str:
    told = format_quantity(row.observed, row.unit)[:60]
    return f"row {row.name[:80]} says {told}, and by the measurements it is {format_quantity(measured, row.unit)[:60]}"
