"""What was wrong with the link or its readings meanwhile, in words that stand beside what it explains."""

from __future__ import annotations

import resource
from collections.abc import Sequence

import numpy as np

from djinn_checks.checks.pcie.evidence import PcieEvidence
from djinn_checks.instruments.blur import MOST_OF_WINDOW
from djinn_checks.instruments.counters import CounterSeries
from djinn_checks.instruments.link_health import ERRORS, HealthSample
from djinn_checks.instruments.payload import Reader
from djinn_checks.units import MB, format_bytes, format_seconds

_IN_USE = 0.1
"""Of the ceiling: a link that carries less may run at a lower generation to save power."""
_MUCH_PINNED_BYTES = 100 * MB
_SECOND_S = 1.0
_BEFORE_S = (0.2, 0.05, 0.02)
"""Before a hole: who read then is likely to have read in it."""


def find_training(evidence: PcieEvidence) -> list[HealthSample]:
    """Return the samples of the run whose generation and width mean something: those of a link in use."""
    health = evidence.link.health
    samples = health.around(evidence.start_s, evidence.end_s) if health else ()
    known = [sample for sample in samples if sample.generation is not None and sample.width is not None]
    inside = [sample for sample in known if evidence.start_s <= sample.t_s <= evidence.end_s]
    return [sample for sample in inside if _is_in_use(evidence, sample.t_s)]


def find_training_before(evidence: PcieEvidence) -> list[HealthSample]:
    """Return the samples of the time in which the ceiling was measured; one that is faster than the run's means
    something, whether the link was in use then or not."""
    health, ceilings = evidence.link.health, evidence.link.ceilings[:1]
    samples = health.around(ceilings[0].start_s, evidence.start_s) if health and ceilings else ()
    return [sample for sample in samples if sample.generation is not None and sample.width is not None]


def _is_in_use(evidence: PcieEvidence, at_s: float) -> bool:
    start, end = max(evidence.start_s, at_s - _SECOND_S / 2), min(evidence.end_s, at_s + _SECOND_S / 2)
    passed = evidence.counted_between(start, end) if start < end else None
    return passed is not None and passed / (end - start) >= _IN_USE * evidence.link.ceiling_bytes_per_s


def explain_slow_windows(evidence: PcieEvidence, slow_starts_s: Sequence[float]) -> str:
    """Return what is known to have slowed the link in the seconds of these windows; empty if nothing is."""
    health = evidence.link.health
    samples = health.around(evidence.start_s, evidence.end_s) if health else ()
    if health is None or not samples or not len(slow_starts_s):
        return ""
    nearest = [min(samples, key=lambda sample: abs(sample.t_s - start)) for start in slow_starts_s]
    best = max((sample.speed for sample in samples), default=0)
    said = []
    down = [sample for sample in nearest if 0 < sample.speed < best]
    if down:
        said.append(f"the link was at {down[0].trained} in {len(down) / len(nearest):.0%} of them")
    slowed = [reason for sample in nearest for reason in sample.slowed_by]
    for reason in dict.fromkeys(slowed):
        said.append(f"clocks were slowed by {reason} in {slowed.count(reason) / len(nearest):.0%} of them")
    errors = {name: health.difference(name, evidence.start_s, evidence.end_s) for name in ERRORS}
    counted = [f"{count:,} {name.replace('_', ' ')}" for name, count in errors.items() if count]
    if counted:
        said.append(f"during the run the link had {', '.join(counted)}")
    return "; ".join(said)


def explain_stalls(evidence: PcieEvidence, series: CounterSeries, holes: Sequence[tuple[float, float]]) -> str:
    """Return why the longest of these holes may be there, as far as that can be known.

    Without a hole: why the slowest query was slow, beside which windows cannot be told from their neighbours.
    """
    if not holes:
        return _explain_slowest_query(evidence, series)
    start, end = max(holes, key=lambda hole: hole[1] - hole[0])
    first = int(np.searchsorted(series.t_s, start))
    if first + 1 >= len(series.t_s) or series.t_s[first + 1] < end - 1e-9:
        return ": the counters stood still"
    asked = float((series.raw.after_s - series.raw.before_s)[first : first + 2].max())
    waited = float(series.raw.before_s[first + 1] - series.raw.after_s[first])
    if waited > asked:
        return f": for {format_seconds(waited)} nobody asked, as the sampler was not run; the processors are busy"
    return f": {_explain_query(evidence, start, end, asked)}"


def _explain_slowest_query(evidence: PcieEvidence, series: CounterSeries) -> str:
    query_s = series.raw.after_s - series.raw.before_s
    inside = (series.t_s >= evidence.start_s) & (series.t_s <= evidence.end_s)
    if not inside.any() or float(query_s[inside].max()) <= MOST_OF_WINDOW * evidence.params.window_ms / 1e3:
        return ""
    slowest = int(np.argmax(np.where(inside, query_s, 0.0)))
    start, end = float(series.raw.before_s[slowest]), float(series.raw.after_s[slowest])
    return (
        f"; {_explain_query(evidence, start, end, end - start)}. Windows beside such queries are lost; longer ones "
        f"would not be: give window_ms: {(end - start) * 1e3 / MOST_OF_WINDOW:.0f}"
    )


def _explain_query(evidence: PcieEvidence, start_s: float, end_s: float, took_s: float) -> str:
    said = f"NVML took {format_seconds(took_s)} to answer"
    health = evidence.link.health
    pages = health.pages_pinned(start_s, end_s) if health else None
    pinned = (pages or 0) * resource.getpagesize()
    if pinned >= _MUCH_PINNED_BYTES:
        return f"{said} while {format_bytes(pinned)} were pinned on this machine, which keeps readings waiting"
    reader = _reader_near(evidence, start_s)
    if reader is not None and reader.in_place:
        return f"{said} while kernels read host memory in place ({reader.says}), which keeps readings waiting"
    return f"{said}; why is not known: somebody may have pinned memory"


def _reader_near(evidence: PcieEvidence, at_s: float) -> Reader | None:
    """Return who read shortly before, in the longest time without a hole."""
    if evidence.counter is None or evidence.series is None:
        return None
    for seconds in _BEFORE_S:
        reader = evidence.counter.reader(evidence.series, at_s - seconds, at_s)
        if reader is not None:
            return reader
    return None
