"""The rows of the PCIe check that are about its own instruments.

A ruler that cannot be trusted decides nothing: what does not hold here is missing evidence, INCONCLUSIVE,
and never a claim that is false.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from djinn_checks.checks.pcie.evidence import HOST_MEMORY, PCIE, PcieEvidence
from djinn_checks.instruments.counters import FROZEN_S
from djinn_checks.instruments.impossible import Standstill, find_fastest_step, find_standstill
from djinn_checks.outcome import Criterion, Observed, Row, Status
from djinn_checks.units import format_bytes, format_seconds

_RESIDUAL = 0.003
"""Of the calibration: counted against known bytes. 0.002 was seen on an H200; the claims are judged within 0.01."""
_EVIDENCE_SHARE = 0.99
_QUIET_SHARE = 0.01
_CEILING_DRIFT = 0.05
MOST_OF_CEILING = 1.11
"""What a link carries on the wire is at most so much of what large copies put there. On PCIe 5.0 x16 these reach
59.7 of its 63.0 GB/s, 1 / 1.055, and the ceiling may have been measured `_CEILING_DRIFT` too low."""
_REQUEST_BYTES, _MOST_READ_BYTES = 24, 256
"""A request for host memory on the way out, and the most that one asks for (H200)."""


def judge_instruments(evidence: PcieEvidence) -> list[Criterion]:
    """Return the rows about counters, calibration and ceiling."""
    if evidence.link.subject == HOST_MEMORY:
        return [_counters_complete(evidence)]
    rows = [_counters_complete(evidence), _counters_fine_enough(evidence), _calibration(evidence)]
    rows += [_counted_is_possible(evidence), _counters_alive(evidence)]
    if evidence.link.subject == PCIE:
        rows += [_link_quiet(evidence), _ceiling_verified(evidence), _ceiling_undisturbed(evidence)]
        rows.append(_ceiling_steady(evidence))
    return rows


def find_doubt(instruments: Sequence[Criterion]) -> str:
    """Return why the counters or the ceiling cannot be trusted; empty if they can.

    Holes are left out: they spoil the windows that they touch and no others.
    """
    open_still = (criterion for criterion in instruments if criterion.status is Status.INCONCLUSIVE)
    doubts = (criterion for criterion in open_still if criterion.name != "counters_complete")
    return "; ".join(f"{criterion.name}: {criterion.reason}" for criterion in doubts)


def _judge_instrument(
    row: Row,
    observed: Observed,
    comparison: str,
    threshold: Observed,
    *,
    evidence: str,
    missing: str,
    failed: str,
) -> Criterion:
    """Judge a row about an instrument: what does not hold is missing evidence, not a claim that is false."""
    return row.judge(
        observed, comparison, threshold, evidence=evidence, missing=missing, failed=failed, instrument=True
    )


def _counters_complete(evidence: PcieEvidence) -> Criterion:
    series = evidence.series
    missing = _why_no_counters(evidence)
    observed: float | None = None
    said, lost = "no source of PCIe counters", ""
    if series is not None:
        _, wire = series.windows(evidence.start_s, evidence.end_s, evidence.params.window_ms / 1e3)
        observed = float(np.isfinite(wire).mean()) if len(wire) else 0.0
        holes = [(a, b) for a, b in series.holes if a < evidence.end_s and b > evidence.start_s]
        longest = max((b - a for a, b in holes), default=0.0)
        lost = f"{len(holes)} hole(s), the longest {longest * 1e3:,.0f} ms"
        if len(series.t_s) and series.t_s[-1] < evidence.end_s:
            lost += f"; the sampler ended {evidence.end_s - series.t_s[-1]:.1f} s before the run"
        gap = series.longest_gap_s(evidence.start_s, evidence.end_s)
        said = f"{series.source}: {len(series.t_s):,} readings by a process of its own"
        said += f", the longest gap {gap * 1e3:.1f} ms" if gap is not None else ""
    row = Row("counters_complete", "The link was counted all the time, without holes", unit="share of windows")
    return _judge_instrument(
        row,
        observed,
        ">=",
        _EVIDENCE_SHARE,
        evidence=said,
        missing=missing,
        failed=lost,
    )


def _counters_fine_enough(evidence: PcieEvidence) -> Criterion:
    """A pause that is shorter than the time between two readings is not seen."""
    gap = evidence.series.typical_gap_s() if evidence.series else None
    row = Row("counters_fine_enough", "Readings are no further apart than the windows are long", unit="ms")
    return _judge_instrument(
        row,
        None if gap is None else gap * 1e3,
        "<=",
        evidence.params.window_ms,
        evidence="median time between two readings",
        missing=_why_no_counters(evidence),
        failed=f"this source is too slow for such windows; give window_ms: {(gap or 0) * 1.2e3:.0f} or more",
    )


def _calibration(evidence: PcieEvidence) -> Criterion:
    row = Row("calibration", "A second known copy is counted right with the first one's ratio", unit="share")
    found = evidence.link.calibration
    if found is not None and found.residual is None:
        return row.skip("one known copy was recorded beside this trace, and no second one")
    ratio = f", {found.wire_per_payload:.4f} bytes on the wire for each of payload" if found else ""
    size = format_bytes(found.payload_bytes) if found else "no bytes"
    return _judge_instrument(
        row,
        found.residual if found else None,
        "<=",
        _RESIDUAL,
        evidence=f"two copies of {size} from pinned memory{ratio}",
        missing="; ".join(evidence.link.reasons) or "the counters could not be calibrated",
        failed="the counters do not repeat themselves; is something else using the link?",
    )


def _link_quiet(evidence: PcieEvidence) -> Criterion:
    found = evidence.link.calibration
    row = Row("link_quiet", "With nothing going on, the link carries next to nothing", unit="share of ceiling")
    return _judge_instrument(
        row,
        found.idle_bytes_per_s / evidence.link.ceiling_bytes_per_s if found else None,
        "<=",
        _QUIET_SHARE,
        evidence="counters over a quarter of a second before the run",
        missing="no calibrated counters",
        failed="another process is using the link; stop it and run again",
    )


def _ceiling_verified(evidence: PcieEvidence) -> Criterion:
    after = [evidence.link.ceiling_after] if evidence.link.ceiling_after else []
    wrong = [ceiling for ceiling in (*evidence.link.ceilings, *after) if not ceiling.verified]
    row = Row("ceiling_verified", "Every copy that the ceiling rests on delivered its bytes", unit="copies")
    return _judge_instrument(
        row,
        len(wrong),
        "==",
        0,
        evidence="compared on the device after the copies",
        missing="",
        failed="a large copy did not arrive whole; is this memory or this link defective?",
    )


def _ceiling_undisturbed(evidence: PcieEvidence) -> Criterion:
    """A ceiling that was measured while others used the link is too low, and everything looks full beside it."""
    both = (*evidence.link.ceilings[:1], evidence.link.ceiling_after)
    found = [ceiling for ceiling in both if ceiling is not None]
    counted = [(ceiling, evidence.counted_between(ceiling.start_s, ceiling.end_s)) for ceiling in found]
    excess = [abs(count / ceiling.copied_bytes - 1) for ceiling, count in counted if count is not None]
    row = Row(
        "ceiling_undisturbed",
        "While the ceiling was measured, the link carried its copies and nothing else",
        unit="share",
    )
    return _judge_instrument(
        row,
        max(excess) if len(excess) == len(found) and found else None,
        "<=",
        evidence.params.byte_tolerance,
        evidence="counted payload against the bytes that were copied, before and after the run",
        missing="the counters have no reading for the time of the ceiling",
        failed="another process used the link meanwhile; stop it and run again",
    )


def _ceiling_steady(evidence: PcieEvidence) -> Criterion:
    before, after = evidence.link.ceilings[:1], evidence.link.ceiling_after
    drift = abs(after.bytes_per_s / before[0].bytes_per_s - 1) if before and after else None
    row = Row("ceiling_steady", "The link's ceiling is the same before and after the run", unit="share")
    return _judge_instrument(
        row,
        drift,
        "<=",
        _CEILING_DRIFT,
        evidence="large pinned copies, the fastest of several rounds, timed by events on the device",
        missing="the ceiling was measured only once",
        failed="the machine changed under the run; is it shared, or throttled?",
    )


def _counted_is_possible(evidence: PcieEvidence) -> Criterion:
    """More than the link can carry is no very full link: a counter was set back, or the ceiling is not the link's."""
    series, found = evidence.series, evidence.link.calibration
    step = find_fastest_step(series, evidence.start_s, evidence.end_s) if series else None
    most = evidence.link.ceiling_bytes_per_s * found.wire_per_payload if found else None
    observed, said = None, ""
    if step is not None and most is not None:
        observed = step.bytes_per_s / most
        said = (
            f"{step.direction.upper()} counted {format_bytes(step.nbytes)} within {format_seconds(step.longest_s)}, "
            f"{format_bytes(step.bytes_per_s)}/s on the wire, where large copies reach {format_bytes(most)}/s; a "
            "counter was set back or counts wrong, or the ceiling is not this link's"
        )
    row = Row("counted_is_possible", "Never was more counted than the link can carry", unit="share of ceiling")
    return _judge_instrument(
        row,
        observed,
        "<=",
        MOST_OF_CEILING,
        evidence="the fastest step between two readings, over the most time that their clocks allow",
        missing="; ".join(evidence.link.reasons) or "no calibrated counters",
        failed=said,
    )


def _counters_alive(evidence: PcieEvidence) -> Criterion:
    still = find_standstill(evidence.series, evidence.start_s, evidence.end_s) if evidence.series else None
    row = Row("counters_alive", "Neither counter stands still while the other goes on", unit="ms")
    return _judge_instrument(
        row,
        None if evidence.series is None else (still.seconds if still else 0.0) * 1e3,
        "<",
        FROZEN_S * 1e3,
        evidence="longest such time; each reading alone moves some bytes both ways",
        missing=_why_no_counters(evidence),
        failed=_say_standstill(still) if still else "",
    )


def _say_standstill(still: Standstill) -> str:
    if still.direction == "tx":
        said = f"TX stood still for {format_seconds(still.seconds)} while RX counted {format_bytes(still.other_bytes)}"
        return f"{said}: nothing is read from the host without a request of {_REQUEST_BYTES} bytes; TX does not count"
    readable = still.other_bytes / _REQUEST_BYTES * _MOST_READ_BYTES
    return (
        f"RX stood still for {format_seconds(still.seconds)} while TX counted {format_bytes(still.other_bytes)}, "
        f"as many as the requests for {format_bytes(readable)} take, and no reading of the counters passes without "
        "bytes received; RX does not count"
    )


def _why_no_counters(evidence: PcieEvidence) -> str:
    return "; ".join(evidence.link.reasons) or "no PCIe counters were read"
