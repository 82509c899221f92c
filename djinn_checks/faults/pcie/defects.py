"""Evidence of a PCIe run in which one thing is wrong, in a dose; the run is made to measure (`traffic.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from djinn_checks.checks.pcie.evidence import PcieEvidence
from djinn_checks.faults.pcie.traffic import (
    CEILING,
    CLAIMED_BYTES,
    END_S,
    FULL_RATE,
    PASS_BYTES,
    START_S,
    make_evidence,
    make_series,
)
from djinn_checks.instruments.counters import WRAP, CounterSeries, build_series

_PERIOD_S = 0.008


def claims_more(share: float) -> PcieEvidence:
    """Claim this share of the moved bytes on top of them."""
    return make_evidence(make_series(), claimed_bytes=int((1 + share) * CLAIMED_BYTES))


def moves_share(share: float) -> PcieEvidence:
    """Move this share of what is claimed."""
    return make_evidence(make_series(share * FULL_RATE), claimed_bytes=CLAIMED_BYTES)


def _truly(rate: float | Callable[[float], float], moved: float) -> PcieEvidence:
    """Traffic of another shape, truly claimed: `moved` is the part of a full link's bytes that it carries."""
    found = make_evidence(make_series(rate), claimed_bytes=int(moved * CLAIMED_BYTES))
    assert found.run is not None  # noqa: S101 - made above
    return replace(found, run=replace(found.run, predicted_bytes=int(moved * PASS_BYTES)))


def slower(share: float) -> PcieEvidence:
    """Keep the link at this share of its full rate."""
    return _truly(share * FULL_RATE, share)


def idles(share: float) -> PcieEvidence:
    """Leave the link idle for this share of each 8 ms."""
    return _truly(lambda t: CEILING if t % _PERIOD_S < (1 - share) * _PERIOD_S else 0.0, 1 - share)


def pauses(seconds: float) -> PcieEvidence:
    """Pause for so long in every fifth of a second, the length of a pass, and be full otherwise."""
    return _truly(lambda t: 0.0 if t % 0.2 < seconds else CEILING, 1 - seconds / 0.2)


def busy_during(share: float) -> PcieEvidence:
    """Have another process take this share of a full link while the system runs."""
    return make_evidence(make_series(), claimed_bytes=int((1 - share) * CLAIMED_BYTES))


def _link(calibration: dict[str, Any] | None = None, after: dict[str, Any] | None = None) -> PcieEvidence:
    found = make_evidence()
    link = found.link
    if link.calibration is not None and calibration:
        link = replace(link, calibration=replace(link.calibration, **calibration))
    if link.ceiling_after is not None and after:
        link = replace(link, ceiling_after=replace(link.ceiling_after, **after))
    return replace(found, link=link)


def busy_before(share: float) -> PcieEvidence:
    """Have another process take this share of the link before the system runs."""
    return _link(calibration={"idle_bytes_per_s": share * CEILING})


def ceiling_disturbed(share: float) -> PcieEvidence:
    """Have another process carry this share of the bytes while the ceiling is measured."""
    return _link(after={"copied_bytes": int((1 - share) * CEILING * 0.8)})


def never_arrives(dose: float) -> PcieEvidence:
    """Have the copies that the ceiling rests on not deliver their bytes; there is no less of it."""
    return _link(after={"verified": False})


def drifts(share: float) -> PcieEvidence:
    """Have the link slower by this share after the run than before it."""
    return _link(after={"bytes_per_s": (1 - share) * CEILING})


def does_not_repeat(share: float) -> PcieEvidence:
    """Count a second known copy off by this share."""
    return _link(calibration={"residual": share})


def _stops(share: float, *, freeze: bool) -> PcieEvidence:
    """Lose the counters for this share of the run: they stand still, or nobody reads them any more."""
    at = END_S - share * (END_S - START_S)
    if not freeze:
        return make_evidence(make_series(end_s=at))
    whole = make_series()
    stop = int(whole.t_s.searchsorted(at))
    rx, tx = whole.raw.rx.copy(), whole.raw.tx.copy()
    rx[stop:], tx[stop:] = rx[stop], tx[stop]
    return make_evidence(build_series(whole.t_s, whole.t_s, rx, tx, source="made to measure"))


def freezes(share: float) -> PcieEvidence:
    """Have the counters stand still for this share of the run, at its end."""
    return _stops(share, freeze=True)


def sampler_dies(share: float) -> PcieEvidence:
    """Read no counters for this share of the run, at its end."""
    return _stops(share, freeze=False)


def receive_dies(share: float) -> PcieEvidence:
    """Have the counter of received bytes stand still for this share of the run, while that of sent ones goes on."""
    whole = make_series()
    stop = int(whole.t_s.searchsorted(END_S - share * (END_S - START_S)))
    rx = whole.raw.rx.copy()
    rx[stop:] = rx[stop]
    return make_evidence(build_series(whole.t_s, whole.t_s, rx, whole.raw.tx, source="made to measure"))


def set_back(share: float) -> PcieEvidence:
    """Have the counter of received bytes start anew in mid-run, once it has come through this share of a wrap."""
    whole = make_series()
    raw = whole.raw.rx
    middle = (START_S + END_S) / 2
    at = int(np.flatnonzero((whole.t_s > middle) & (raw >= share * WRAP) & (raw < (share + 0.1) * WRAP))[0])
    rx = raw.copy()
    rx[at:] = (raw[at:] - raw[at]) % WRAP
    return make_evidence(build_series(whole.t_s, whole.t_s, rx, whole.raw.tx, source="made to measure"))


def readings_apart(milliseconds: float) -> PcieEvidence:
    """Read so rarely: at a full link a wrap of 2^32 goes by in 79 ms."""
    whole = make_series()
    raw, every = whole.raw, slice(None, None, int(milliseconds))
    times = whole.t_s[every]
    series: CounterSeries = build_series(times, times, raw.rx[every], raw.tx[every], source="made to measure")
    return make_evidence(series)
