"""The rows that a check always has, and what they are held against: an outcome that leaves one out, or moves its
threshold, says something else than its check does.

Only what every version agrees on stands here. Rows may be added to a check without a word; one that is renamed or
taken away is refused here until it is named otherwise, and a test holds these tables against what checks write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from djinn_checks.outcome.criterion import Criterion, format_quantity
from djinn_checks.outcome.measured import find_disagreements
from djinn_checks.outcome.status import Observed, Status

_GB = 10**9


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is known of a check's rows, whatever it was run on."""

    always: frozenset[str]
    """In every outcome that came to its end, by every version."""
    since: frozenset[str] = frozenset()
    """Likewise, by the versions whose rows say whether they are about an instrument."""
    never_skipped: frozenset[str] = frozenset()
    """Judged in every outcome that is PASS."""
    thresholds: Mapping[str, tuple[str, Observed]] = field(default_factory=dict)
    """Comparison and threshold of rows that always have the same."""
    named: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Comparison of rows whose threshold is a parameter, and its name."""
    informative: frozenset[str] = frozenset()
    """The only rows of those above that need not be required."""
    decisive: frozenset[str] = frozenset()
    """Required wherever they stand, in outcomes of later versions."""
    decisive_if_failed: frozenset[str] = frozenset()
    """Required wherever they are FAIL."""


_LOGITS_PROOFS = frozenset(
    {
        "weights_streamed", "weights_within_budget", "weights_at_use", "prefill_bit_equal", "decode_bit_equal",
        "prefill_l2_or_top_k", "decode_l2_or_top_k", "finite_logits",
    }
)  # fmt: skip
_LOGITS = Expected(
    always=_LOGITS_PROOFS | {"bytes_claimed_vs_planned", "bytes_claimed_vs_witnessed", "peak_device_memory"},
    never_skipped=_LOGITS_PROOFS,
    thresholds={
        "weights_at_use": ("==", 0),
        "bytes_claimed_vs_planned": ("==", 0),
        "prefill_bit_equal": ("==", 0),
        "decode_bit_equal": ("==", 0),
        "prefill_l2_or_top_k": ("==", 0),
        "decode_l2_or_top_k": ("==", 0),
        "finite_logits": ("==", 0),
    },
)

_PCIE_CLAIMS = frozenset({"counters_complete", "rx_above_threshold", "rx_of_ceiling"})
_PCIE_COUNTERS = frozenset({"counters_fine_enough", "calibration"})
_PCIE_LINK = frozenset({"link_quiet", "ceiling_verified", "ceiling_undisturbed", "ceiling_steady"})
_PCIE_SINCE = frozenset({"counted_is_possible", "counters_alive"})
_PCIE_OF_MODEL = frozenset({"time_per_pass_vs_limit", "streams_the_model"})
_PCIE = Expected(
    always=_PCIE_CLAIMS | _PCIE_OF_MODEL | {"claimed_vs_counted", "vram_limit"},
    never_skipped=_PCIE_CLAIMS,
    thresholds={"ceiling_verified": ("==", 0)},
    named={
        "counters_fine_enough": ("<=", "window_ms"),
        "ceiling_undisturbed": ("<=", "byte_tolerance"),
        "rx_above_threshold": (">", "threshold_share"),
        "rx_of_ceiling": (">=", "ceiling_share"),
        "time_per_pass_vs_limit": (">=", "ceiling_fraction"),
    },
)

_SLEEPER = frozenset(
    {
        "survives_sleep", "kv_left_device", "swaps_counted", "kv_returned", "restores_counted", "bytes_equal",
        "digest_equal", "prefill_counted", "rounding_is_kept", "text_equals_twin", "logprobs_equal_twin", "coherent",
    }
)  # fmt: skip
_ON_LINK = frozenset({"kv_out_on_link", "kv_in_on_link", "swap_out_of_ceiling", "restore_of_ceiling"})
_SLEEPER_SINCE = frozenset({"speaks_for_model", "kv_left_soon", "woke_at_once", "closing_frees"})
_CROWD = frozenset(
    {
        "crowd_answered", "crowd_overcommits", "crowd_held_at_once", "crowd_texts_equal_twins", "code_words_kept",
        "decoding_stays",
    }
)  # fmt: skip
_CROWD_SINCE = frozenset({"crowd_swapped", "crowd_resident_in_budget", "crowd_within_budget"})
_AGENTS = Expected(
    always=_SLEEPER | _ON_LINK,
    since=_SLEEPER_SINCE,
    never_skipped=_SLEEPER,
    thresholds={
        "bytes_equal": ("==", 0),
        "digest_equal": ("==", 0),
        "prefill_counted": ("==", 0),
        "rounding_is_kept": ("==", "kept"),
        "text_equals_twin": ("==", 0),
        "logprobs_equal_twin": ("==", 0.0),
        "crowd_texts_equal_twins": ("==", 0),
        "code_words_kept": ("==", 0),
        "code_words_recalled": ("==", 0),
        "decoding_stays": ("==", 0),
    },
    named={
        "survives_sleep": ("==", "sleeps"),
        "kv_left_device": (">=", "memory_share"),
        "kv_returned": (">=", "memory_share"),
        "kv_out_on_link": (">=", "memory_share"),
        "kv_in_on_link": (">=", "memory_share"),
        "closing_frees": (">=", "memory_share"),
        "swap_out_of_ceiling": (">=", "swap_of_ceiling"),
        "restore_of_ceiling": (">=", "swap_of_ceiling"),
        "crowd_held_at_once": ("==", "agents"),
        "wake_p99": ("<=", "wake_p99_s"),
        "restore_p99": ("<=", "restore_p99_ratio"),
    },
    informative=frozenset({"rounding_is_kept"}),  # where time tells a kept session from a recomputed one, and it cannot
)

_POOL_PROOFS = frozenset(
    {
        "survives_sleep", "twins_are_twins", "kv_left_device", "kv_from_host", "loads_counted", "prefill_counted",
        "rounding_is_kept", "text_equals_twin", "logprobs_equal_twin", "coherent",
    }
)  # fmt: skip
_POOL_CROWD = frozenset(
    {"crowd_answered", "crowd_overcommits", "crowd_came_back", "crowd_texts_equal_twins", "code_words_kept"}
)
_POOLS = ("vllm", "sglang")
_POOL = Expected(
    always=_POOL_PROOFS
    | {"first_token_is_kept", "served_was_computed", "kv_in_on_link", "speaks_for_model", "woke_at_once"},
    never_skipped=_POOL_PROOFS,
    thresholds={
        "twins_are_twins": ("==", 0),
        "kv_left_device": ("<=", 0),
        "served_was_computed": ("<=", 0),
        "rounding_is_kept": ("==", "kept"),
        "text_equals_twin": ("==", 0),
        "crowd_texts_equal_twins": ("==", 0),
        "code_words_kept": ("==", 0),
        "code_words_recalled": ("==", 0),
    },
    named={
        "survives_sleep": ("==", "sleeps"),
        "loads_counted": (">=", "memory_share"),
        "kv_in_on_link": (">=", "memory_share"),
        "kv_out_on_link": (">=", "memory_share"),
        "restore_of_ceiling": (">=", "swap_of_ceiling"),
        "wake_p99": ("<=", "wake_p99_s"),
    },
    informative=frozenset(
        {"rounding_is_kept", "first_token_is_kept", "kv_out_on_link", "restore_of_ceiling", "served_was_computed"}
    ),
    decisive=frozenset({"crowd_came_back"}),
    decisive_if_failed=frozenset({"served_was_computed"}),
)
"""Of servers that keep all KV in one pool."""


_HOST_COUNTERS = frozenset({"counters_complete", "links_quiet", "counted_vs_copied"})
_HOST_LINKS = frozenset({"copies_arrived", "duplex", "link_at_its_best", "together_at_least_one"})
_HOST_ASKED = frozenset(
    {
        "alone_as_expected", "together_as_expected", "sum_as_expected", "far_as_expected", "peer_as_expected",
        "latency_as_expected",
    }
)  # fmt: skip
_HOST = Expected(
    always=_HOST_COUNTERS
    | _HOST_LINKS
    | _HOST_ASKED
    | {
        "whole_host", "gpus_free", "workers_finished", "wire_ratio", "nobody_pins", "entered_together",
        "alone_like_others", "alone_of_width", "link_replays", "link_errors", "clocks_not_slowed", "sharing_explained",
    },
    never_skipped=_HOST_COUNTERS | _HOST_LINKS | {"gpus_free", "workers_finished", "entered_together"},
    thresholds={
        "gpus_free": ("==", 0),
        "workers_finished": ("==", 0),
        "copies_arrived": ("==", 0),
        "link_at_its_best": ("==", 0),
        "link_replays": ("==", 0),
        "link_errors": ("==", 0),
        "clocks_not_slowed": ("==", 0),
        "counters_complete": (">=", 0.99),
        "together_at_least_one": (">=", 0.95),
    },
    named={
        "counted_vs_copied": ("<=", "count_tolerance"),
        "alone_like_others": (">=", "alike"),
        "alone_of_width": (">=", "of_width"),
        "duplex": (">=", "duplex_gain"),
    },
)  # fmt: skip


def expect(check: str, params: Mapping[str, Any], measurements: Mapping[str, Any]) -> Expected | None:
    """Return what is known of the rows of such a run; None of a check that this version does not know."""
    if check == "logits":
        is_exact = params.get("require_bit_equality", True) is not False
        informative = frozenset() if is_exact else frozenset({"prefill_bit_equal", "decode_bit_equal"})
        return _add(_LOGITS, informative=informative)
    if check == "pcie":
        return _expect_pcie(params, measurements)
    if check == "agents":
        has_crowd = params.get("agents", 0) != 0
        if params.get("adapter") in _POOLS:
            return _add(_POOL, always=_POOL_CROWD, never_skipped=_POOL_CROWD) if has_crowd else _POOL
        return _add(_AGENTS, always=_CROWD, since=_CROWD_SINCE, never_skipped=_CROWD) if has_crowd else _AGENTS
    if check == "host":
        return _expect_host(params, measurements)
    if check == "faults":  # one for each fault that was planted
        rows = [row["name"] for row in measurements.get("faults") or ()]
        clean = [f"{name}_false_alarms" for name in measurements.get("clean") or ()]
        thresholds: dict[str, tuple[str, Observed]] = dict.fromkeys(rows, ("==", "caught"))
        return Expected(always=frozenset([*rows, *clean]), thresholds=thresholds | dict.fromkeys(clean, ("==", 0)))
    return None


def _expect_pcie(params: Mapping[str, Any], measurements: Mapping[str, Any]) -> Expected:
    """Return what is known of the rows by what the link was; a run whose link is not known ended before it was."""
    subject = (measurements.get("link") or {}).get("subject", "pcie")
    if subject == "host memory":
        return _add(_PCIE, informative=frozenset({"time_per_pass_vs_limit"}), thresholds={}, named={})
    counted = _add(_PCIE, always=_PCIE_COUNTERS, since=_PCIE_SINCE)
    if subject != "pcie":
        return counted
    limit_gb = params.get("vram_limit_gb")
    limits: dict[str, tuple[str, Observed]] = (
        {"vram_limit": ("<=", int(limit_gb * _GB))} if isinstance(limit_gb, int | float) else {}
    )
    judged = _PCIE_OF_MODEL | _PCIE_COUNTERS | _PCIE_LINK | frozenset(limits)
    whole = _add(counted, always=_PCIE_LINK, never_skipped=judged)
    return _add(whole, thresholds={**_PCIE.thresholds, **limits}, named=dict(_PCIE.named))


def _expect_host(params: Mapping[str, Any], measurements: Mapping[str, Any]) -> Expected:
    """Return what is known of the rows by what was asked for: the whole host, and figures that it must reach."""
    judged = {"whole_host"} if params.get("gpus", "all") == "all" else set()
    judged |= {f"{name.partition('_')[0]}_as_expected" for name in measurements.get("expected") or ()}
    if len(measurements.get("links") or ()) > 1:
        kinds = {(link["name"], link["max_generation"], link["max_width"]) for link in measurements["links"]}
        judged |= {"alone_like_others"} if len(kinds) < len(measurements["links"]) else set()
    return _add(
        _HOST,
        never_skipped=frozenset(judged),
        thresholds=_HOST.thresholds,
        named=_HOST.named,
    )


def _add(
    expected: Expected,
    *,
    always: frozenset[str] = frozenset(),
    since: frozenset[str] = frozenset(),
    never_skipped: frozenset[str] = frozenset(),
    informative: frozenset[str] = frozenset(),
    thresholds: Mapping[str, tuple[str, Observed]] | None = None,
    named: Mapping[str, tuple[str, str]] | None = None,
) -> Expected:
    """Return what is expected with more rows to it, and other thresholds where they are given."""
    return replace(
        expected,
        always=expected.always | always,
        since=expected.since | since,
        never_skipped=expected.never_skipped | never_skipped,
        informative=expected.informative | informative,
        thresholds=expected.thresholds if thresholds is None else thresholds,
        named=expected.named if named is None else named,
    )


def find_unexpected(
    check: str,
    status: Status,
    criteria: Sequence[Criterion],
    params: Mapping[str, Any],
    measurements: Mapping[str, Any],
) -> Iterator[str]:
    """Return what an outcome lacks, or says otherwise than its check does, each in a clause."""
    expected = expect(check, params, measurements)
    if expected is None:
        return
    rows = {row.name: row for row in criteria}
    is_passed = status is Status.PASS
    if is_passed or len(criteria) > 1:  # else one row ended the run before there was evidence for the others
        says_more = any(row.instrument is not None for row in criteria)
        needed = expected.always | (expected.since if says_more else frozenset())
        yield from (f"row {name} is missing, which {check} always has" for name in sorted(needed - rows.keys()))
    for name, row in rows.items():
        if is_passed and row.status is Status.SKIP and name in expected.never_skipped:
            yield f"row {name} is SKIP, and {check} never passes without it"
        is_needed = name in expected.always and (name in expected.never_skipped or not expected.never_skipped)
        if is_passed and not row.required and is_needed and name not in expected.informative:
            yield f"row {name} is not required, and {check} never passes without it"
        if not row.required and (name in expected.decisive or _is_fail_of(row, expected.decisive_if_failed)):
            yield f"row {name} is not required, and {check} never leaves it to the reader"
        yield from _find_moved_threshold(row, expected, params)
    yield from find_disagreements(check, rows, params, measurements)


def _is_fail_of(row: Criterion, names: frozenset[str]) -> bool:
    return row.status is Status.FAIL and row.name in names


def _find_moved_threshold(row: Criterion, expected: Expected, params: Mapping[str, Any]) -> Iterator[str]:
    if row.status is Status.SKIP:
        return
    comparison, threshold, source = row.comparison, row.threshold, ""
    if row.name in expected.thresholds:
        comparison, threshold = expected.thresholds[row.name]
    elif row.name in expected.named and expected.named[row.name][1] in params:
        comparison, name = expected.named[row.name]
        threshold, source = params[name], f" by the parameter {name}"
    if (row.comparison, row.threshold) != (comparison, threshold):
        told = format_quantity(row.threshold, "")[:40]
        yield (
            f"row {row.name} is held against {row.comparison} {told}, and{source} it is "
            f"{comparison} {format_quantity(threshold, '')[:40]}"
        )
