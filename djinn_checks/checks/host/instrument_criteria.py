"""The rows of the host check that are about its own instruments: what does not hold here is missing evidence."""

from __future__ import annotations

import resource

import numpy as np

from djinn_checks.checks.fleet_criteria import judge_whole_host, tell_lost
from djinn_checks.checks.host.accounts import find_rates, read_wire
from djinn_checks.checks.host.driver import D2H, H2D
from djinn_checks.checks.host.evidence import ALONE, HostEvidence
from djinn_checks.checks.host.plan import HOST_MEMORY
from djinn_checks.outcome import Criterion, Row
from djinn_checks.units import MB, format_bytes

GPUS_FREE = Row("gpus_free", "Nobody else uses a GPU when the run begins", unit="GPU(s)")
_WINDOW_S = 0.02
_EVIDENCE_SHARE = 0.99
_QUIET_SHARE = 0.01
_READING_BYTES = 25_000
"""What a reading of the counters moves itself, at most: 22 kB one way were seen (H200)."""
_MOST_PINNED_BYTES = 100 * MB
"""Of small blocks that somebody pins all the time."""
_LEAST_OVERLAP = 0.8
_RATIO_REPEATS = 0.005
"""How far the bytes on the wire for each of payload may move between the stages alone of a link; an H200's move by
0.0005."""
_ROUNDS_REPEAT = 0.1


def judge_instruments(evidence: HostEvidence) -> tuple[Criterion, ...]:
    """Return the rows about what was driven, counted and disturbed."""
    return (
        _whole_host(evidence),
        _gpus_free(evidence),
        _workers_finished(evidence),
        _counters_complete(evidence),
        _links_quiet(evidence),
        _wire_ratio(evidence),
        _nobody_pins(evidence),
        _entered_together(evidence),
        _rounds_repeat(evidence),
    )


def _whole_host(evidence: HostEvidence) -> Criterion:
    driven = len(evidence.seen)
    stand_ins = (
        f"this machine has no PCIe GPU: {'a link' if driven == 1 else f'{driven} links'} within host memory "
        f"stand{'s' if driven == 1 else ''} in, to prove the check's machinery and nothing about a host"
    )
    none = evidence.subject == HOST_MEMORY
    return judge_whole_host(driven, evidence.plan.left_out, evidence.params.gpus, stand_ins if none else "")


def _gpus_free(evidence: HostEvidence) -> Criterion:
    if evidence.subject == HOST_MEMORY:
        return GPUS_FREE.skip("there is no GPU")
    return GPUS_FREE.judge(
        len(evidence.plan.in_use),
        "==",
        0,
        evidence="NVML's list of processes and the memory in use, before anything ran",
        instrument=True,
    )


def _workers_finished(evidence: HostEvidence) -> Criterion:
    row = Row("workers_finished", "The process of each link came to its end", unit="link(s) lost")
    lost = {link.uuid: link.lost for link in evidence.seen if link.lost}
    return row.judge(
        len(lost),
        "==",
        0,
        evidence="one process for each link; one that ends or does not answer in time is left behind",
        failed=tell_lost(lost),
        instrument=True,
    )


def _counters_complete(evidence: HostEvidence) -> Criterion:
    row = Row("counters_complete", "Each link was counted all the time, without holes", unit="share of windows")
    shares, gaps = {}, []
    for link in evidence.seen:
        series = evidence.fitted[link.uuid]
        if series is None:
            continue
        _, wire = series.windows(evidence.idle_s[0], evidence.end_s, _WINDOW_S)
        shares[link.uuid] = float(np.isfinite(wire).mean()) if len(wire) else 0.0
        gaps.append(series.longest_gap_s(evidence.idle_s[0], evidence.end_s) or 0.0)
    missing = [f"{link.uuid}: {link.why_not_counted or 'not read'}" for link in evidence.seen if link.series is None]
    worst = min(shares, key=lambda uuid: shares[uuid], default="")
    return row.judge(
        None if missing or not shares else shares[worst],
        ">=",
        _EVIDENCE_SHARE,
        evidence=f"one process reads the counters of all links; the longest gap {max(gaps, default=0) * 1e3:.1f} ms",
        missing="; ".join(missing) or "nothing was counted",
        failed=f"least of {worst}; {_say_pins(evidence)}",
        instrument=True,
    )


def _links_quiet(evidence: HostEvidence) -> Criterion:
    row = Row(
        "links_quiet", "With nothing going on, no link carries more than next to nothing", unit="share of its rate"
    )
    shares: dict[str, float] = {}
    for link in evidence.seen:
        series, fastest = evidence.fitted[link.uuid], max(evidence.alone[link.uuid].values(), default=0.0)
        counted = (
            [series.bytes_between(*evidence.idle_s, way) for way in ("rx", "tx")] if series is not None else [None]
        )
        known = [count for count in counted if count is not None]
        if series is not None and len(known) == 2 and fastest:
            own = _READING_BYTES * series.readings_between(*evidence.idle_s)
            rate = max(0.0, max(known) - own) / (evidence.idle_s[1] - evidence.idle_s[0])
            shares[link.uuid] = rate / fastest
    worst = max(shares, key=lambda uuid: shares[uuid], default="")
    return row.judge(
        shares.get(worst),
        "<=",
        _QUIET_SHARE,
        evidence="counters after everything was pinned and before the first stage, less what readings move themselves",
        missing="no link was counted then",
        failed=f"{worst}: somebody else uses it",
        instrument=True,
    )


def _say_pins(evidence: HostEvidence) -> str:
    pinned = count_pinned_bytes(evidence)
    if pinned is None or pinned <= _MOST_PINNED_BYTES:
        return "why is not known"
    return f"{format_bytes(pinned)} were pinned meanwhile, which keeps readings waiting"


def count_pinned_bytes(evidence: HostEvidence) -> int | None:
    """Return what anybody pinned for devices during the stages; None if the kernel does not say."""
    found = [
        link.health.pages_pinned(evidence.idle_s[1], evidence.end_s)
        for link in evidence.seen
        if link.health is not None
    ]
    pages = [count for count in found if count is not None]
    return max(pages) * resource.getpagesize() if pages else None


def _nobody_pins(evidence: HostEvidence) -> Criterion:
    row = Row("nobody_pins", "Nobody pins memory while the stages run", unit="bytes")
    pinned = count_pinned_bytes(evidence)
    if pinned is None:
        return row.skip("the kernel does not say how many pages are pinned")
    return row.judge(
        pinned,
        "<=",
        _MOST_PINNED_BYTES,
        evidence="pages that the kernel pinned for devices, whoever asked; the check's own are pinned before",
        failed="another process pins memory, which keeps all readings waiting; end it and run again",
        instrument=True,
    )


def _wire_ratio(evidence: HostEvidence) -> Criterion:
    row = Row(
        "wire_ratio", "Each link puts the same on the wire for a byte of payload, stage after stage", unit="share"
    )
    errors: dict[str, float] = {}
    every = find_rates(evidence)
    for link in evidence.seen:
        series, rates = evidence.fitted[link.uuid], every[link.uuid]
        if series is None or not rates.by_first_stage:
            continue
        for way, at in ((H2D, 0), (D2H, 1)):
            ratio = rates.received[0] if way == H2D else rates.sent[1]
            for stage in evidence.list_stages(ALONE, way)[1:]:
                copies = stage.copies.get(link.uuid)
                wire = read_wire(evidence, link.uuid, series, stage, rates.ruler)
                if wire is None or copies is None:
                    continue
                errors[link.uuid] = max(errors.get(link.uuid, 0.0), abs(wire[at] / copies.nbytes(way) / ratio - 1))
    worst = max(errors, key=lambda uuid: errors[uuid], default="")
    if not errors:
        return row.skip("no link was counted twice by ratios of its own")
    return row.judge(
        errors[worst],
        "<=",
        _RATIO_REPEATS,
        evidence="first stage alone against the later ones, each way",
        failed=f"most of {worst}; is something else using its link?",
        instrument=True,
    )


def _entered_together(evidence: HostEvidence) -> Criterion:
    row = Row("entered_together", "All links were at work at the same time", unit="share of a stage")
    overlaps = [stage.overlap for stage in evidence.together.values()]
    return row.judge(
        min(overlaps, default=None),
        ">=",
        _LEAST_OVERLAP,
        evidence="the time in which all copied, of the stages that are judged",
        missing="no stage was entered by all",
        failed="a process came late; are the processors busy?",
        instrument=True,
    )


def _rounds_repeat(evidence: HostEvidence) -> Criterion:
    row = Row("rounds_repeat", "Each link alone is as fast in one round as in another", unit="share", required=False)
    spreads = {
        (link.uuid, way): max(rates) / min(rates) - 1
        for link in evidence.seen
        for way in evidence.alone[link.uuid]
        if (rates := evidence.list_rates(link.uuid, way))
    }
    worst = max(spreads, key=lambda key: spreads[key], default=None)
    return row.judge(
        None if worst is None else spreads[worst],
        "<=",
        _ROUNDS_REPEAT,
        evidence=f"{evidence.params.rounds} rounds; the fastest counts",
        missing="nothing was driven",
        failed=f"{worst[0]} {worst[1]}" if worst else "",
    )
