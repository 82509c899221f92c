"""The rows of the PCIe check that are about its own instruments.

A ruler that cannot be trusted decides nothing: what does not hold here is missing evidence, INCONCLUSIVE,
and never a claim that is false.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from djinn_checks.checks.pcie.evidence import HOST_MEMORY, MOST_OF_CEILING, PCIE, PcieEvidence
from djinn_checks.checks.pcie.link_trouble import explain_stalls, find_training, find_training_before
from djinn_checks.instruments.counters import FROZEN_S
from djinn_checks.instruments.impossible import Standstill, find_fastest_steps, find_standstill
from djinn_checks.instruments.link_health import most_replays
from djinn_checks.instruments.payload import ANSWER_BYTES, LARGEST_REQUEST_BYTES, REQUEST_BYTES
from djinn_checks.outcome import Criterion, Observed, Row, Status
from djinn_checks.units import format_bytes, format_seconds

_RESIDUAL = 0.003
"""Of the calibration: counted against known bytes. 0.002 was seen on an H200; the claims are judged within 0.01."""
_EVIDENCE_SHARE = 0.99
_QUIET_SHARE = 0.01
_CEILING_DRIFT = 0.05
_LEAST_SENT = 0.95
"""Of what requests as large as those of known copies take; the rest is for readings not quite of one instant."""
_MUCH_READ = 0.01
"""Of the link's capacity; of less than that commands and queries are a large part."""


def judge_instruments(evidence: PcieEvidence) -> list[Criterion]:
    """Return the rows about counters, calibration and ceiling."""
    if evidence.link.subject == HOST_MEMORY:
        return [_counters_complete(evidence)]
    rows = [_counters_complete(evidence), _counters_fine_enough(evidence), _calibration(evidence)]
    rows += [_counted_is_possible(evidence), _counters_alive(evidence), _requests_counted(evidence)]
    if evidence.link.subject == PCIE:
        rows += [_link_quiet(evidence), _ceiling_verified(evidence), _ceiling_undisturbed(evidence)]
        rows += [_ceiling_steady(evidence), _link_training(evidence), _link_replays(evidence)]
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
        lost += explain_stalls(evidence, series, holes)
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
    gap = evidence.series.typical_gap_s(evidence.start_s, evidence.end_s) if evidence.series else None
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
    if found and evidence.counter and found.law_error is not None:
        ratio += f"; by requests and answers alone they are counted {found.law_error:.2%} off"
    if evidence.counter and not evidence.counter.by_law:
        ratio += f"; payload is counted by this ratio, as {evidence.counter.reason}"
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
        failed="another process is using the link: stop it and run again; or, on a narrow link, the readings of the "
        "counters are what is seen: give a lower sampler_hz",
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
    steps = find_fastest_steps(series, evidence.start_s, evidence.end_s) if series and found else []
    shares = [(step.bytes_per_s / (evidence.link.most_on_wire(step.direction) or 1.0), step) for step in steps]
    observed, said = None, ""
    if shares:
        observed, step = max(shares, key=lambda pair: pair[0])
        most = evidence.link.most_on_wire(step.direction) or 0.0
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


def _requests_counted(evidence: PcieEvidence) -> Criterion:
    """The law takes what requests cost from what came: of requests that went uncounted it would take too little."""
    row = Row("requests_counted", "At least as much is sent as requests for what came take", unit="TX / RX")
    counter, reader = evidence.counter, evidence.reader
    if counter is not None and not counter.by_law:
        return row.skip(f"payload is counted by the ratio of known copies: {counter.reason}")
    if counter is not None and evidence.wire_of_ceiling is None:
        return row.skip("with holes in the evidence it is not known what was sent and received in all")
    if counter is not None and (evidence.wire_of_ceiling or 0.0) < _MUCH_READ:
        return row.skip("next to nothing was received")
    sent = reader.sent_of_received if reader else None
    largest = counter.largest_request_bytes if counter else LARGEST_REQUEST_BYTES
    return _judge_instrument(
        row,
        sent,
        ">=",
        _LEAST_SENT * REQUEST_BYTES / (largest + ANSWER_BYTES),
        evidence=f"over the whole run; requests ask for {largest:.0f} bytes at most, as known copies show",
        missing=_why_no_counters(evidence) if evidence.series is None else "evidence was lost during the run",
        failed="TX counts only a part of what is sent",
    )


def _link_training(evidence: PcieEvidence) -> Criterion:
    row = Row("link_training", "The link keeps its generation and width during the run", unit="")
    trained = find_training(evidence)
    if not trained:
        return row.skip("this GPU or driver does not tell generation and width, or nobody asked")
    best = max((*trained, *find_training_before(evidence)), key=lambda sample: sample.speed)
    worst = min(trained, key=lambda sample: sample.speed)
    worst = worst if worst.speed < best.speed else best
    return _judge_instrument(
        row,
        worst.trained,
        "==",
        best.trained,
        evidence=f"NVML, once a second, {len(trained)} times; the generation only while the link is in use",
        missing="",
        failed=f"it was {worst.trained} at {worst.t_s - evidence.start_s:.0f} s: the link trained down",
    )


def _link_replays(evidence: PcieEvidence) -> Criterion:
    row = Row("link_replays", "The link sends no more packets again than the PCIe specification allows", unit="replays")
    health = evidence.link.health
    found = health.difference("replays", evidence.start_s, evidence.end_s) if health else None
    samples = health.around(evidence.start_s, evidence.end_s) if health else ()
    fastest = max(samples, key=lambda sample: sample.speed, default=None)
    most = most_replays(fastest.generation, fastest.width, evidence.duration_s) if fastest else None
    if found is None or most is None:
        return row.skip("this GPU or driver does not tell, or the specification states no rate for this link")
    return _judge_instrument(
        row,
        found,
        "<=",
        most,
        evidence="NVML's counters over the run; one bit in 10^12 may be wrong on each lane",
        missing="",
        failed="the link is disturbed; reseat the card, look at risers and cables",
    )


def _say_standstill(still: Standstill) -> str:
    if still.direction == "tx":
        said = f"TX stood still for {format_seconds(still.seconds)} while RX counted {format_bytes(still.other_bytes)}"
        return f"{said}: nothing is read from the host without a request of {REQUEST_BYTES} bytes; TX does not count"
    readable = still.other_bytes / REQUEST_BYTES * LARGEST_REQUEST_BYTES
    return (
        f"RX stood still for {format_seconds(still.seconds)} while TX counted {format_bytes(still.other_bytes)}, "
        f"as many as the requests for {format_bytes(readable)} take, and no reading of the counters passes without "
        "bytes received; RX does not count"
    )


def _why_no_counters(evidence: PcieEvidence) -> str:
    return "; ".join(evidence.link.reasons) or "no PCIe counters were read"
