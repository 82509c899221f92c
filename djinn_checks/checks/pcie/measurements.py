"""The PCIe check's evidence as plain data, for the outcome and the figures made from it.

Instants are seconds after the start of the judged time, so that two runs can be laid side by side.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np

from djinn_checks.checks.pcie.evidence import HOST_MEMORY, LABELS, REPLAY, PcieEvidence
from djinn_checks.checks.pcie.stream_facts import (
    describe_figures,
    describe_floor,
    describe_health,
    describe_reader,
)
from djinn_checks.instruments.calibration import Calibration
from djinn_checks.instruments.ceiling import Ceiling
from djinn_checks.instruments.counters import Floats
from djinn_checks.instruments.preflight import PreflightRow
from djinn_checks.measurements.pcie import (
    CalibrationFacts,
    CeilingRow,
    CopyRow,
    Memory,
    Passes,
    PcieMeasurements,
    PreflightFacts,
    Traffic,
    Windows,
    Zoom,
)
from djinn_checks.outcome import Criterion, Status
from djinn_checks.units import GB, MB, format_seconds

_ZOOM_PASSES = 4
_ZOOM_S = 1.0
"""The zoom shows this many passes, or fewer where they take longer than this many seconds; at least one whole pass."""


def summarize(evidence: PcieEvidence, criteria: Sequence[Criterion], status: Status) -> str:
    """Return one sentence with the figure that decides."""
    params, link = evidence.params, evidence.link
    what = f"{params.system} on {params.model} ({params.dtype})"
    if link.subject == REPLAY:
        what = f"replay of {params.trace.rpartition('/')[2]}"
    elif link.subject == HOST_MEMORY:
        what += " over a host-memory link"
    if status is not Status.PASS:
        of_status = (criterion for criterion in criteria if criterion.required and criterion.status is status)
        decisive = next(of_status, None)
        return f"{what}: {decisive.name}: {decisive.reason}" if decisive else what
    shares = {criterion.name: criterion.observed for criterion in criteria}
    came = evidence.counted_bytes if evidence.least_bytes is None else evidence.least_bytes
    rate = (came or 0.0) / evidence.duration_s
    text = (
        f"{what}: {rate / GB:.1f} GB/s received over {evidence.duration_s:.0f} s, "
        f"{rate / link.ceiling_bytes_per_s:.1%} of the link's ceiling; {float(shares['rx_above_threshold'] or 0):.1%} "
        f"of the windows above {params.threshold_mb_per_s:,.0f} MB/s"
    )
    if evidence.run is not None and evidence.limit_s is not None:
        text += f"; {format_seconds(evidence.run.seconds_per_pass)} a pass, the limit is "
        text += f"{format_seconds(evidence.limit_s)}"
    if evidence.encodes and evidence.weight_rate_of_ceiling is not None:
        text += f"; weights came at {evidence.weight_rate_of_ceiling:.1%} of the ceiling, encoded"
    return text


def gather_measurements(evidence: PcieEvidence) -> PcieMeasurements:
    """Return what the report's tables and figures are made of, as plain data."""
    link = evidence.link
    return {
        "link": {
            "subject": link.subject,
            "label": LABELS[link.subject],
            "counters": evidence.series.source if evidence.series else None,
            "ceiling_bytes_per_s": link.ceiling_bytes_per_s,
            "calibration": _calibration(link.calibration) if link.calibration else None,
            "ceilings": [_ceiling_row(ceiling) for ceiling in link.ceilings],
            "ceiling_after": _ceiling_row(link.ceiling_after) if link.ceiling_after else None,
            "sweep": [_ceiling_row(ceiling) for ceiling in link.sweep],
        },
        "preflight": [_preflight_row(row) for row in link.preflight],
        "windows": _windows(evidence),
        "zoom": _zoom(evidence),
        "bytes": _bytes(evidence),
        "reader": describe_reader(evidence),
        "figures": describe_figures(evidence),
        "floor": describe_floor(evidence),
        "health": describe_health(evidence),
        "passes": _passes(evidence),
        "memory": _memory(evidence),
        "limit": {
            "needed_bytes": evidence.needed_per_pass,
            "seconds": evidence.limit_s,
            "ratio": evidence.limit_ratio,
            "streamed_of_ceiling": evidence.streamed_of_ceiling,
        },
    }


def _calibration(found: Calibration) -> CalibrationFacts:
    return {
        "wire_per_payload": found.wire_per_payload,
        "idle_bytes_per_s": found.idle_bytes_per_s,
        "residual": found.residual,
        "payload_bytes": found.payload_bytes,
        "law_error": found.law_error,
        "ruler_rx_bytes": found.ruler_rx_bytes,
        "ruler_tx_bytes": found.ruler_tx_bytes,
        "sent_of_received": found.sent_of_received,
    }


def _ceiling_row(ceiling: Ceiling) -> CeilingRow:
    return {
        "kind": ceiling.kind,
        "direction": ceiling.direction,
        "pinned": ceiling.pinned,
        "nbytes": ceiling.nbytes,
        "bytes_per_s": ceiling.bytes_per_s,
        "spread": ceiling.spread,
        "verified": ceiling.verified,
        "samples_s": list(ceiling.samples_s),
    }


def _preflight_row(row: PreflightRow) -> PreflightFacts:
    return {"name": row.name, "found": row.found, "wanted": row.wanted, "ok": row.ok, "remedy": row.remedy}


def _windows(evidence: PcieEvidence) -> Windows | None:
    received = evidence.window_rates
    if received is None or evidence.series is None:
        return None
    width = evidence.params.window_ms / 1e3
    sent = evidence.rates(evidence.start_s, evidence.end_s, width, "tx")
    holes = [(max(a, evidence.start_s), min(b, evidence.end_s)) for a, b in evidence.series.holes]
    return {
        "window_s": width,
        "rx_mb_per_s": _in_mb(received),
        "tx_mb_per_s": _in_mb(sent) if sent is not None else [],
        "holes_s": [[a - evidence.start_s, b - evidence.start_s] for a, b in holes if a < b],
        "duration_s": evidence.duration_s,
        "clock_start_s": evidence.start_s,  # of the readings' clock: finds the run again in the raw samples
    }


def _zoom(evidence: PcieEvidence) -> Zoom | None:
    """The last passes in short windows, with the system's own account of its copies beneath."""
    run = evidence.run
    span = min(_ZOOM_S, evidence.duration_s)
    if run is not None:
        span = min(evidence.duration_s, max(1.2 * run.seconds_per_pass, min(_ZOOM_PASSES * run.seconds_per_pass, span)))
    start, width = evidence.end_s - span, evidence.params.zoom_ms / 1e3
    rates = evidence.rates(start, evidence.end_s, width)
    rows = run.timeline if run is not None else ()
    shown = [row for row in rows if row["copy_end_s"] >= start and row["copy_start_s"] <= evidence.end_s]
    if rates is None and not shown:
        return None
    ends = run.pass_ends_s if run is not None else ()
    return {
        "start_s": start - evidence.start_s,
        "end_s": evidence.end_s - evidence.start_s,
        "window_s": width,
        "rx_mb_per_s": _in_mb(rates) if rates is not None else None,
        "timeline": [_relative(row, evidence.start_s) for row in shown],
        "pass_ends_s": [end - evidence.start_s for end in ends if end >= start],
    }


def _relative(row: dict[str, Any], start_s: float) -> CopyRow:
    """Return a row of the system's own account, whose keys are the system's to give."""
    relative = {name: round(value - start_s, 7) if name.endswith("_s") else value for name, value in row.items()}
    return cast(CopyRow, relative)


def _bytes(evidence: PcieEvidence) -> Traffic:
    run = evidence.run
    passes = evidence.passes
    predicted = run.predicted_bytes if run else None
    return {
        "passes": passes,
        "predicted": None if predicted is None or passes is None else predicted * passes,
        "claimed": evidence.claimed_bytes,
        "counted": evidence.counted_bytes,
        "wire": evidence.series.bytes_between(evidence.start_s, evidence.end_s) if evidence.series else None,
        "witnessed_a_pass": run.witnessed_bytes if run else None,
    }


def _passes(evidence: PcieEvidence) -> Passes | None:
    run = evidence.run
    if run is None:
        return None
    taken = np.diff([run.start_s, *run.pass_ends_s])
    return {
        "count": len(taken),
        "mean_s": float(taken.mean()),
        "median_s": statistics.median(taken.tolist()),
        "min_s": float(taken.min()),
        "p99_s": float(np.quantile(taken, 0.99)),
        "open_s": run.open_s,
    }


def _memory(evidence: PcieEvidence) -> Memory | None:
    run = evidence.run
    if run is None:
        return None
    return {"peak_device_bytes": run.peak_device_bytes, "host_growth_bytes": run.host_growth_bytes}


def _in_mb(rates: Floats) -> list[float | None]:
    """Whole MB/s: the sampling is coarser, and the JSON shorter. None is lost evidence."""
    return [None if math.isnan(rate) else round(rate / MB) for rate in _floats(rates)]


def _floats(values: Floats) -> Iterable[float]:
    return (float(value) for value in values)
