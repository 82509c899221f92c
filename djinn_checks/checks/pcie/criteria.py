"""The rows of the PCIe check.

First the instruments (`instrument_criteria.py`): where one cannot be trusted, the claims that rest on it are
INCONCLUSIVE. Then the claims. Windows whose evidence is lost are counted for both sides: a claim holds if it
would with all of them against it, and fails if it would with all of them for it.
"""

from __future__ import annotations

import math
import operator
from dataclasses import replace

import numpy as np

from djinn_checks.checks.pcie.evidence import HOST_MEMORY, MOST_OF_CEILING, PCIE, REPLAY, PcieEvidence
from djinn_checks.checks.pcie.instrument_criteria import find_doubt, judge_instruments
from djinn_checks.checks.pcie.link_trouble import explain_slow_windows
from djinn_checks.checks.pcie.weight_criteria import judge_weights
from djinn_checks.checks.pcie.why_more import LOST, say_why_more
from djinn_checks.instruments.counters import Floats
from djinn_checks.instruments.payload import FETCHED_TWICE, READ_BY_WAITS
from djinn_checks.outcome import Criterion, Row
from djinn_checks.units import GB, MB, format_bytes, format_seconds

PAPER_SECONDS = 10.0
"""The paper's criterion is about at least so long a run."""
_LITTLE, _COMMANDS = 0.01, 0.001
"""Of the link's capacity: what may be commands and queries alone, and what a count of them may be off by."""
_HOST_SLACK_BYTES = 2 * GB
"""Host memory that a system may take beside the weights it streams: runtime, buffers, pages of code."""
_NO_PCIE = "this machine has no PCIe GPU: what ran is a link between two places in host memory"
_NO_MODEL = "a recorded trace does not say which model ran"
_WITNESS = "weight witness: bytes that were certainly written in one pass"
_VRAM_LIMIT = Row("vram_limit", "The process had no more device memory than vram_limit_gb", unit="bytes")


def judge_evidence(evidence: PcieEvidence) -> tuple[Criterion, ...]:
    """Return all criteria of the PCIe check, instruments first."""
    instruments = judge_instruments(evidence)
    doubt = _NO_PCIE if evidence.link.subject == HOST_MEMORY else find_doubt(instruments)
    return (
        *instruments,
        _rx_above_threshold(evidence, doubt),
        _rx_of_ceiling(evidence, doubt),
        _time_per_pass(evidence, doubt),
        _claimed_vs_counted(evidence, doubt),
        *judge_weights(evidence, doubt),
        _vram_limit(evidence),
        _predicted_vs_counted(evidence, doubt),
        _host_memory(evidence),
    )


def _rx_above_threshold(evidence: PcieEvidence, doubt: str) -> Criterion:
    params = evidence.params
    limit = params.threshold_mb_per_s * MB
    share, missing = _share_of_windows(evidence, limit, ">", params.threshold_share, doubt)
    if share is not None and share > params.threshold_share and evidence.duration_s < PAPER_SECONDS:
        share, missing = None, f"it holds, but for {evidence.duration_s:.1f} s: the claim is about {PAPER_SECONDS:g} s"
    ceiling = evidence.link.ceiling_bytes_per_s
    if not doubt and limit >= ceiling:
        share = None
        missing = f"this link carries {format_bytes(ceiling)}/s at most, so no system can meet the paper's criterion "
        missing += f"here; run on a faster link, or give threshold_mb_per_s: below {ceiling / MB:,.0f}"
    row = Row(
        "rx_above_threshold",
        f"More than {params.threshold_mb_per_s:,.0f} MB/s of payload are received in more than "
        f"{params.threshold_share:.0%} of the windows (the paper's flatline)",
        unit="share of windows",
    )
    return row.judge(
        share,
        ">",
        params.threshold_share,
        evidence=_windows(evidence),
        missing=missing,
    )


def _rx_of_ceiling(evidence: PcieEvidence, doubt: str) -> Criterion:
    params = evidence.params
    limit = params.ceiling_fraction * evidence.link.ceiling_bytes_per_s
    share, missing = _share_of_windows(evidence, limit, ">=", params.ceiling_share, doubt)
    row = Row(
        "rx_of_ceiling",
        f"At least {params.ceiling_fraction:.0%} of the link's ceiling ({format_bytes(limit)}/s) is received in at "
        f"least {params.ceiling_share:.0%} of the windows",
        unit="share of windows",
    )
    return row.judge(
        share,
        ">=",
        params.ceiling_share,
        evidence=_windows(evidence),
        missing=missing,
        failed=_say_slow_windows(evidence, limit),
    )


def _say_slow_windows(evidence: PcieEvidence, limit: float) -> str:
    """Return how slow the others were, and for how long: a link that rests looks otherwise than one that is shared."""
    rates = evidence.window_rates
    slow = rates < limit if rates is not None else np.zeros(0, dtype=np.bool_)
    if rates is None or not slow.any():
        return ""
    shares = rates[slow] / evidence.link.ceiling_bytes_per_s
    edges = np.flatnonzero(np.diff(slow.astype(np.int8), prepend=0, append=0))
    lengths_s = (edges[1::2] - edges[::2]) * evidence.params.window_ms / 1e3
    starts = evidence.start_s + np.flatnonzero(slow) * evidence.params.window_ms / 1e3
    trouble = explain_slow_windows(evidence, starts.tolist())
    trouble = "; ".join(filter(None, [_say_full_wire(evidence), trouble]))
    return (
        f"the {len(shares):,} slower ones got {shares.min():.1%} of the ceiling at the least and "
        f"{np.median(shares):.1%} in the median, for up to {format_seconds(float(lengths_s.max()))} at a stretch"
        + (f"; {trouble}" if trouble else "")
    )


def _say_full_wire(evidence: PcieEvidence) -> str:
    """Return by whom the wire is full whose payload is less than copies bring; empty if it is not."""
    full = (evidence.wire_of_ceiling or 0.0) >= evidence.params.ceiling_fraction
    if not full or evidence.reader is None or not evidence.reader.in_place:
        return ""
    return f"the wire itself is full, with {evidence.reader.says}"


def _share_of_windows(
    evidence: PcieEvidence, limit: float, comparison: str, needed: float, doubt: str
) -> tuple[float | None, str]:
    """Return the share of windows with a rate above (or of) `limit` bytes/s, or None and why it is not known."""
    rates, bounds = evidence.window_rates, evidence.window_bounds
    if rates is None or bounds is None or len(rates) == 0:
        return None, doubt or "the run is shorter than one window"
    if doubt:
        return None, doubt
    lost, holds = np.isnan(rates), operator.gt if comparison == ">" else operator.ge
    unclear = evidence.unclear_rate

    def share(rates: Floats, total: float | None, side: int, unclear: Floats | float = 0.0) -> float:
        open_still = (rates - unclear < limit) & (rates + unclear >= limit)
        known = np.where(open_still, np.nan, rates)  # as good as lost: a part of it may be its neighbours'
        met = int((known > limit if comparison == ">" else known >= limit).sum())
        return (met + _bound_lost_windows(evidence, known, total, limit)[side]) / len(rates)

    low, high = (share(rates, evidence.counted_bytes, side) for side in (0, 1))
    least, most = share(bounds[0], evidence.least_bytes, 0, unclear), share(bounds[1], evidence.most_bytes, 1, unclear)
    if holds(least, needed) and holds(low, needed):
        return low, ""
    if not holds(most, needed) and not holds(high, needed):
        return high, ""
    why = [f"{lost.mean():.1%} of the windows are lost"] if lost.any() else []
    why += [say_why_more(evidence)] if evidence.may_be_more else []
    why = why or ["it is not known to the millisecond when the counters were read"]
    return None, f"between {least:.1%} and {most:.1%}, as {'; '.join(why)}"


def _bound_lost_windows(
    evidence: PcieEvidence, rates: Floats, total: float | None, limit: float
) -> tuple[float, float]:
    """Return how many of the lost windows had a rate of `limit` at least and at most.

    Where slow queries blur the windows and no hole hides a part of the run, what passed in all lost windows together is
    known. So many of them cannot have had `limit` that there are not bytes enough, and so few cannot that the others,
    each below `limit`, could not have carried the rest with these at all that a link carries.

    Args:
        total: bytes of the whole run, as those of the windows were counted; None: they are not known.
    """
    lost = int(np.isnan(rates).sum())
    width = evidence.params.window_ms / 1e3
    most_rate = MOST_OF_CEILING * evidence.link.ceiling_bytes_per_s
    if total is None or evidence.counted_bytes is None or limit <= 0 or limit >= most_rate:
        return 0.0, float(lost)
    rest = total - float(np.nansum(rates)) * width
    beyond = (evidence.duration_s - len(rates) * width) * most_rate  # what may have passed after the last whole window
    at_most = rest / (limit * width)
    at_least = (rest - beyond - lost * limit * width) / ((most_rate - limit) * width)
    return min(float(lost), max(0.0, at_least)), max(0.0, min(float(lost), at_most))


def _time_per_pass(evidence: PcieEvidence, doubt: str) -> Criterion:
    host = evidence.link.subject == HOST_MEMORY
    row = Row(
        "time_per_pass_vs_limit",
        "A pass takes hardly longer than its bytes need at the ceiling, (M - C) / B",
        unit="share of the limit",
        required=not host,
    )
    if evidence.run is None:
        return row.skip(_NO_MODEL)
    needed, least = evidence.needed_per_pass or 0, evidence.params.ceiling_fraction
    between = evidence.limit_ratios
    is_open = between is not None and between[0] < least <= between[1] and not host
    idles = _say_full_wire(evidence) or "the link or the system idles"
    return row.judge(
        None if is_open or (doubt and not host) else evidence.limit_ratio,
        ">=",
        least,
        evidence=f"{len(evidence.run.pass_ends_s)} passes by the clock, {format_bytes(needed)} to move in each"
        + (" by the system's plan" if evidence.run.predicted_bytes is not None else ""),
        missing=doubt
        or (f"between {between[0]:.1%} and {between[1]:.1%}, as {say_why_more(evidence)}" if between else LOST),
        failed=idles if not host else "a CPU computes slower than its memory copies",
    )


def _claimed_vs_counted(evidence: PcieEvidence, doubt: str) -> Criterion:
    row = Row("claimed_vs_counted", "The system claims what was counted", unit="share")
    if evidence.claimed_bytes is None:
        return row.skip("the system keeps no count of the bytes it moves")
    if evidence.link.subject == HOST_MEMORY:
        return _claimed_vs_witnessed(evidence, replace(row, unit="bytes a pass"))
    if evidence.link.subject == REPLAY:
        row = replace(row, title="What was counted is what was moved, by the recorded truth")
    counted, reader = evidence.counted_bytes, evidence.reader
    said = f"claimed {format_bytes(evidence.claimed_bytes)}, counted {_say_counted(evidence)}"
    difference = _difference(evidence.claimed_bytes, counted, evidence)
    if counted is None:
        difference = _difference_with_holes(evidence.claimed_bytes, evidence)
    ambiguous = _is_ambiguous(evidence, difference) or _may_be_waits(evidence, difference)
    how = "the requests' and answers' own bytes taken off, which known copies prove"
    if evidence.counter is not None and not evidence.counter.by_law:
        how = f"wire bytes over the ratio of known copies ({evidence.counter.reason})"
    return row.judge(
        None if doubt or ambiguous else difference,
        "<=",
        _allow(evidence, evidence.claimed_bytes, counted),
        evidence=f"{said}; {how}" + (f"; {reader.says}" if reader else ""),
        missing=doubt or ambiguous or LOST,
        failed=f"{said}, {counted / evidence.claimed_bytes:.2f} bytes for each claimed"
        if counted and evidence.claimed_bytes
        else said,
    )


def _allow(evidence: PcieEvidence, said: float, counted: float | None) -> float:
    """Return how far a count may be from what the system said: kernels that read in place fetch some lines twice."""
    tolerance, reader = evidence.params.byte_tolerance, evidence.reader
    fetched_more = counted is not None and counted > said and reader is not None and reader.in_place
    return max(tolerance, FETCHED_TWICE) if fetched_more else tolerance


def _is_ambiguous(evidence: PcieEvidence, difference: float | None) -> str:
    """Return why a claim that is not what was counted may still be true: data on their way to the host."""
    bounds, tolerance = evidence.bounds, evidence.params.byte_tolerance
    if difference is None or difference <= tolerance or bounds is None or evidence.claimed_bytes is None:
        return ""
    if not (1 - tolerance) * bounds.least <= evidence.claimed_bytes <= (1 + tolerance) * bounds.most:
        return ""
    return (
        f"claimed {format_bytes(evidence.claimed_bytes)}, and {format_bytes(bounds.least)} to "
        f"{format_bytes(bounds.most)} were read: {say_why_more(evidence)}"
    )


def _may_be_waits(evidence: PcieEvidence, difference: float | None) -> str:
    """Return why more may have been counted than was claimed and moved: streams that wait make a GPU read, too."""
    counted, claimed, link = evidence.counted_bytes, evidence.claimed_bytes, evidence.link
    if difference is None or counted is None or claimed is None or (link.subject != PCIE and not link.recorded):
        return ""
    more_per_s = (counted - claimed) / evidence.duration_s
    if difference <= _allow(evidence, claimed, counted) or not 0 < more_per_s <= READ_BY_WAITS:
        return ""
    return (
        f"{format_bytes(more_per_s)} a second more were counted than {format_bytes(claimed)}: a GPU reads up to "
        f"{format_bytes(READ_BY_WAITS)} a second of host memory while three streams and more wait for events at a "
        "time; let fewer of them wait, and what is left is the system's"
    )


def _claimed_vs_witnessed(evidence: PcieEvidence, row: Row) -> Criterion:
    """Without counters there is a lower bound only, so a claim can be proved too small and never too large."""
    if evidence.encodes:
        return row.skip("it claims bytes on the wire, and the weights that were seen have more than travel encoded")
    run = evidence.run
    witnessed = run.witnessed_bytes if run else None
    claimed = (evidence.claimed_bytes or 0) / len(run.pass_ends_s) if run else None
    too_small = witnessed is not None and claimed is not None and claimed < witnessed
    return row.judge(
        (claimed or 0) if too_small else None,
        ">=",
        witnessed,
        evidence=_WITNESS,
        missing="nothing counts the bytes of this link: the claim could not be held against a count"
        + (f", only against a lower bound, which it meets ({format_bytes(claimed)} a pass)" if witnessed else ""),
        failed="more was certainly written than the system claims",
    )


def _say_counted(evidence: PcieEvidence) -> str:
    if evidence.counted_bytes is not None or evidence.bounds is None:
        return format_bytes(evidence.counted_bytes)
    return f"{format_bytes(evidence.bounds.least)} to {format_bytes(evidence.bounds.most)} for holes in the evidence"


def _difference(claimed: float, counted: float | None, evidence: PcieEvidence) -> float | None:
    """Return the difference as a share of the larger of the two.

    Where both are below a hundredth of what the link could have carried, commands and queries are a large part of what
    is counted: so much more than was claimed is none of the system's doing, and less than was claimed is.
    """
    if counted is None:
        return None
    capacity = evidence.link.ceiling_bytes_per_s * evidence.duration_s
    larger, apart = max(claimed, counted), abs(claimed - counted)
    if larger <= _LITTLE * capacity:
        apart = max(0.0, apart - (_LITTLE if counted > claimed else _COMMANDS) * capacity)
    return apart / larger if larger else 0.0


def _difference_with_holes(claimed: float, evidence: PcieEvidence) -> float | None:
    """Return how far a claim is from a count with holes in it, if that is decided whatever passed in them."""
    bounds = evidence.bounds
    if bounds is None:
        return None
    apart = [_difference(claimed, end, evidence) or 0.0 for end in (bounds.least, bounds.most)]
    if max(apart) <= evidence.params.byte_tolerance:
        return max(apart)
    excused = min(bounds.least / (1 + FETCHED_TWICE), bounds.least - READ_BY_WAITS * evidence.duration_s)
    is_wrong = claimed > bounds.most or claimed < excused  # who reads is not known either
    return min(apart) if is_wrong and min(apart) > evidence.params.byte_tolerance else None


def _vram_limit(evidence: PcieEvidence) -> Criterion:
    limit, run = evidence.params.vram_limit_gb, evidence.run
    if limit is None or run is None:
        return _VRAM_LIMIT.skip("no limit was asked for")
    return judge_vram_limit(limit, run.peak_device_bytes)


def judge_vram_limit(limit_gb: float, peak_bytes: float | None, failed: str = "") -> Criterion:
    """Return the criterion about enforced device memory; infinite bytes stand for out of memory."""
    return _VRAM_LIMIT.judge(
        peak_bytes,
        "<=",
        int(limit_gb * GB),
        evidence="PyTorch's allocator under an enforced memory fraction, and the driver's count of used memory",
        missing="there is no device memory to limit: the device is a CPU",
        failed=failed,
    )


def _predicted_vs_counted(evidence: PcieEvidence, doubt: str) -> Criterion:
    """A plan says what a pass uses; kernels that read in place fetch a little more (`_allow`)."""
    row = Row("predicted_vs_counted", "A pass moved what the system planned", unit="share", required=False)
    predicted = evidence.run.predicted_bytes if evidence.run else None
    if predicted is None:
        return row.skip("there is no plan to hold the count against")
    counted, reader = evidence.counted_per_pass, evidence.reader
    most = (evidence.most_bytes or 0.0) / (evidence.passes or 1)
    tolerance = evidence.params.byte_tolerance
    is_open = counted is not None and counted * (1 + tolerance) < predicted <= most * (1 + tolerance)
    return row.judge(
        None if doubt or counted is None or is_open else abs(counted / predicted - 1) if predicted else math.inf,
        "<=",
        _allow(evidence, predicted, counted),
        evidence=f"planned {format_bytes(predicted)} a pass, counted {format_bytes(counted)}"
        + (f"; {reader.says}" if reader and reader.in_place else ""),
        missing=doubt or say_why_more(evidence),
    )


def _host_memory(evidence: PcieEvidence) -> Criterion:
    title = "The host holds the streamed weights once, and little else"
    row = Row("host_memory", title, unit="bytes", required=False)
    run = evidence.run
    if run is None or run.predicted_bytes is None:
        return row.skip("there is no plan")
    if evidence.link.subject != PCIE:
        return row.skip("the device is the host")
    return row.judge(
        run.host_growth_bytes,
        "<=",
        run.predicted_bytes + _HOST_SLACK_BYTES,
        evidence="growth of the process's peak resident memory (VmHWM) from before the system opened",
        missing="the kernel does not say",
    )


def _windows(evidence: PcieEvidence) -> str:
    rates = evidence.window_rates
    count = 0 if rates is None else len(rates)
    said = f"{count:,} windows of {evidence.params.window_ms:g} ms over {evidence.duration_s:.1f} s"
    stretches = evidence.run.stretches if evidence.run is not None else ()
    if len(stretches) < 2:
        return said
    shares = ", ".join("unknown" if share is None else f"{share:.1%}" for share in stretches)
    return f"{said}, the best of {len(stretches)} stretches of decoding: full were {shares} of their windows"
