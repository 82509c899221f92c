"""An agents outcome's rows from the samples that it keeps of each sleep, turn and wake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from djinn_checks.checks.agents.crowd import percentile
from djinn_checks.measurements import agents
from djinn_checks.outcome import Observed, Outcome
from djinn_checks.verify.finding import Finding, agrees, believed, compare, disagrees

_NEAR = 1e-4
"""Of ratios of numbers that may be written in few digits."""
_WORD = "the check's word: what it was derived from is not kept"
_BELIEVED = {
    "speaks_for_model": "the server's log-probabilities are not kept",
    "logprobs_equal_twin": "the server's log-probabilities are not kept",
    "prefill_counted": "the server's count of computed tokens is not kept",
    "crowd_texts_equal_twins": "the crowd's texts are not kept",
    "code_words_kept": "the crowd's texts are not kept",
    "code_words_recalled": "the crowd's texts are not kept",
    "equals_generate": "the resident model's tokens are not kept",
}
_RATES = {"swap_out_of_ceiling": "out", "restore_of_ceiling": "in"}


def verify_agents(folder: Path, name: str, outcome: Outcome, traces: Path | None) -> Iterator[Finding]:
    """Derive what an agents outcome says again, as far as its samples go."""
    file = f"{name}.outcome.json"
    found, timings = agents.read(outcome.measurements), agents.read_timings(outcome.timings)
    if not found.get("turns"):
        yield believed(file, "all rows", "it ended before an agent had said anything")
        return
    again: dict[str, Observed] = dict(_of_turns(found))
    if outcome.params.get("adapter") not in (
        "vllm",
        "sglang",
    ):  # whose pools have rows of the same names and other sense
        again |= dict(_of_sleeps(found, timings))
    crowd = timings.get("crowd")
    if crowd:
        again |= dict(_of_crowd(crowd))
        yield from _verify_percentiles(file, crowd)
    for row in outcome.criteria:
        if row.observed is None:
            yield believed(file, row.name, f"it was not decided or not asked for: {row.reason}"[:160])
        elif row.name in again:
            yield compare(file, row.name, row.observed, again[row.name], "the samples", relative=_NEAR)
        elif row.name in _RATES:
            yield _hold_rate(file, row.name, row.observed, timings)
        else:
            yield believed(file, row.name, _BELIEVED.get(row.name, _WORD))


def _of_turns(found: agents.AgentsMeasurements) -> Iterator[tuple[str, Observed]]:
    turns = found["turns"]
    yield "coherent", max(float(turn["nll_slept"]) - float(turn["nll_hot"]) for turn in turns)
    pieces = [(turn["slept"]["pieces"], turn["hot"]["pieces"]) for turn in turns]
    if all(len(one) > 1 and len(other) > 1 for one, other in pieces):  # else the text came without tokens
        yield "text_equals_twin", sum(_differ(one, other) for one, other in pieces)


def _differ(one: list[str], other: list[str]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=False)) + abs(len(one) - len(other))


def _of_sleeps(found: agents.AgentsMeasurements, timings: agents.AgentsTimings) -> Iterator[tuple[str, Observed]]:
    sleeps = timings.get("sleeps") or []
    sizes = [row["kv_bytes"] for row in found.get("sleeps") or []]
    if not sleeps or len(sleeps) != len(sizes):
        return
    yield "survives_sleep", len(sleeps)
    pairs = [(sleep["swap"], sleep["restore"]) for sleep in sleeps]
    known = [(swap, restore) for swap, restore in pairs if swap is not None and restore is not None]
    if len(known) == len(pairs):
        yield from _of_records(known)
    if changes := timings.get("memory_changes"):
        yield "kv_left_device", min(fell / size for (fell, _), size in zip(changes, sizes, strict=True))
        yield "kv_returned", min(back / size for (_, back), size in zip(changes, sizes, strict=True))
    counted: Mapping[str, Any] = timings.get("counted_bytes") or {}
    for way in ("out", "in"):
        if counted.get(way):
            yield f"kv_{way}_on_link", min(moved / size for moved, size in zip(counted[way], sizes, strict=True))


def _of_records(
    known: list[tuple[agents.SessionFacts, agents.SessionFacts]],
) -> Iterator[tuple[str, Observed]]:
    last_swap, last_restore = known[-1]
    if last_swap["swaps"] is not None:
        yield "swaps_counted", last_swap["swaps"]
    if last_restore["restores"] is not None:
        yield "restores_counted", last_restore["restores"]
    if all(swap["digest_out"] and restore["digest_in"] for swap, restore in known):
        yield "digest_equal", sum(swap["digest_out"] != restore["digest_in"] for swap, restore in known)
    if all(swap["swapped_bytes"] is not None for swap, _ in known):
        yield "bytes_equal", sum(swap["swapped_bytes"] != restore["restored_bytes"] for swap, restore in known)


def _of_crowd(crowd: agents.CrowdTimes) -> Iterator[tuple[str, Observed]]:
    if crowd["turns"]:
        yield "crowd_answered", len(crowd["turns"])
    if crowd["swaps"] is not None:
        yield "crowd_swapped", crowd["swaps"]
    yield "wake_p99", percentile([row["wake_s"] for row in crowd["wakes"]], 99)
    if crowd["restore_p99_s"] is not None and crowd["unloaded_restore_s"]:
        yield "restore_p99", crowd["restore_p99_s"] / crowd["unloaded_restore_s"]


def _verify_percentiles(file: str, crowd: agents.CrowdTimes) -> Iterator[Finding]:
    wakes = [row["wake_s"] for row in crowd["wakes"]]
    backs = [row["restore_s"] for row in crowd["wakes"] if row["restore_s"] is not None]
    for name, values in (("wake", wakes), ("restore", backs)):
        for share in (50, 99):
            key = f"{name}_p{share}_s"
            told = crowd[key]  # type: ignore[literal-required]
            if told is not None or values:
                yield compare(
                    file, f"crowd.{key}", told, percentile(values, share), f"its {len(values):,} wakes", relative=_NEAR
                )


def _hold_rate(file: str, name: str, told: Observed, timings: agents.AgentsTimings) -> Finding:
    """The row is the lower of what the server's clock says, whose samples are kept, and of what the counters say."""
    way = _RATES[name]
    rates: Mapping[str, Any] = timings.get("swap_bytes_per_s") or {}
    ceiling = (timings.get("ceilings_bytes_per_s") or {}).get(way)
    if not rates.get(way) or not ceiling or not isinstance(told, int | float):
        return believed(file, name, _WORD)
    by_server = median(rates[way]) / ceiling
    if told > by_server * (1 + 1e-6):
        return disagrees(file, name, f"says {told:.6g}, and by the server's times it is {by_server:.6g} at most")
    return agrees(file, name, f"no more than the server's times give, {by_server:.4g}")
