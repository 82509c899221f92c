"""The counters of each link against the copies that it made: what was counted in each stage, in both directions.

A link's first stage alone tells how many bytes on the wire each of payload has, both ways: reads of the host are
answered with data and something beside them, and cost requests that are sent; writes are sent. All later stages are
counted by these, both directions at once by solving for the two. Where a first stage gives no ratio that a wire can
have (another link's counters, say), the specification's own is taken: 256 bytes a packet, 20 beside an answer, 24
beside a request.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from djinn_checks.checks.host.driver import D2H, H2D
from djinn_checks.checks.host.evidence import ALONE, HostEvidence, Stage
from djinn_checks.instruments.calibration import weigh_ruler
from djinn_checks.instruments.counters import CounterSeries
from djinn_checks.instruments.payload import ANSWER_BYTES, LARGEST_REQUEST_BYTES, REQUEST_BYTES, RulerWeight

_SIZE = LARGEST_REQUEST_BYTES
_LARGEST_RATIO = 1.7
"""Of packets of 32 bytes, the smallest that anybody reads with, it is 1.63."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """One link in one stage, in bytes of payload each way."""

    uuid: str
    stage: Stage
    copied: Mapping[str, int]
    """0 both ways of a link that rested."""
    counted: Mapping[str, float] | None
    """None where evidence is lost, or nothing counts the link."""
    most: float
    """What the link could have carried in that time one way, by its rate alone."""

    @property
    def error(self) -> float | None:
        """The worse of both directions: |counted - copied| over what was copied; of one at rest, over `most`."""
        if self.counted is None:
            return None
        return max(self._error(way, self.counted[way]) for way in (H2D, D2H))

    def _error(self, way: str, counted: float) -> float:
        return abs(counted - self.copied[way]) / (self.copied[way] or self.most)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Bytes on the wire for each of payload."""

    received: tuple[float, float]
    """Of a byte to the device, and of one to the host."""
    sent: tuple[float, float]
    by_first_stage: bool
    ruler: RulerWeight | None
    """What a reading moves itself."""

    @property
    def law(self) -> float:
        """What the law of reads makes of a byte to the device; 1 where it holds."""
        return self.received[0] - ANSWER_BYTES / REQUEST_BYTES * self.sent[0]

    def count(self, rx: float, tx: float) -> dict[str, float]:
        """Return the payload that makes up what was received and sent."""
        down, up = np.linalg.solve(np.array([self.received, self.sent]), np.array([rx, tx]))
        return {H2D: float(down), D2H: float(up)}


def list_accounts(evidence: HostEvidence) -> list[Account]:
    """Return the account of every link in every stage, those that rested included.

    A link whose process was lost has none: what that had copied when it ended nobody knows.
    """
    series = evidence.fitted
    rates = find_rates(evidence)
    return [
        _account(evidence, stage, link.uuid, series[link.uuid], rates[link.uuid])
        for stage in evidence.stages
        for link in evidence.seen
        if not link.lost and (link.series is not None or link.uuid in stage.copies)
    ]


def find_rates(evidence: HostEvidence) -> dict[str, Rates]:
    """Return how each link's bytes are counted, by its first stages alone as far as they can be believed.

    A ratio that a wire can have may still be of counters that miss a part. So reads are held against the law that they
    keep whatever their size, received - 20/24 sent = payload: where most links keep it, one that does not is counted
    by the specification's ratios.
    """
    found = {link.uuid: _find_own(evidence, link.uuid, evidence.fitted[link.uuid]) for link in evidence.seen}
    errors = {uuid: abs(rates.law - 1) for uuid, rates in found.items() if rates.by_first_stage}
    tolerance = evidence.params.count_tolerance
    if errors and statistics.median(errors.values()) <= tolerance:
        found |= {uuid: _by_specification(found[uuid].ruler) for uuid, error in errors.items() if error > tolerance}
    return found


def _by_specification(ruler: RulerWeight | None) -> Rates:
    return Rates(
        received=((_SIZE + ANSWER_BYTES) / _SIZE, 0.0),
        sent=(REQUEST_BYTES / _SIZE, (_SIZE + REQUEST_BYTES) / _SIZE),
        by_first_stage=False,
        ruler=ruler,
    )


def _find_own(evidence: HostEvidence, uuid: str, series: CounterSeries | None) -> Rates:
    ruler = weigh_ruler(series, *evidence.idle_s) if series is not None else None
    down, up = (_read_first(evidence, uuid, way, series, ruler) for way in (H2D, D2H))
    if down is None or up is None or not _is_possible(down[0]) or not _is_possible(up[1]):
        return _by_specification(ruler)
    return Rates(received=(down[0], up[0]), sent=(down[1], up[1]), by_first_stage=True, ruler=ruler)


def _is_possible(ratio: float) -> bool:
    return 1.0 <= ratio <= _LARGEST_RATIO


def _read_first(
    evidence: HostEvidence, uuid: str, way: str, series: CounterSeries | None, ruler: RulerWeight | None
) -> tuple[float, float] | None:
    """Return what was received and sent for each byte of the first stage alone."""
    first = next((stage for stage in evidence.list_stages(ALONE, way) if uuid in stage.copies), None)
    wire = read_wire(evidence, uuid, series, first, ruler) if first is not None else None
    if wire is None or first is None:
        return None
    nbytes = first.copies[uuid].nbytes(way)
    return wire[0] / nbytes, wire[1] / nbytes


def read_wire(
    evidence: HostEvidence, uuid: str, series: CounterSeries | None, stage: Stage, ruler: RulerWeight | None
) -> tuple[float, float] | None:
    """Return what was received and sent between the readings before and behind a stage.

    Between two readings nobody knows when a byte passed. So where a reader that was kept waiting has none between this
    stage's copies and another's, it is not known which of the two they belong to: None.
    """
    span = series.enclose(stage.start_s, stage.end_s) if series is not None else None
    if series is None or span is None:
        return None
    others = [other.copies[uuid] for other in evidence.stages if other is not stage and uuid in other.copies]
    if any(span[0] < copies.ended_s and copies.began_s < span[1] for copies in others):
        return None
    rx, tx = (series.bytes_between(*span, way) for way in ("rx", "tx"))
    if rx is None or tx is None:
        return None
    readings = series.readings_between(*span)
    weight = ruler or RulerWeight(rx_bytes=0.0, tx_bytes=0.0)
    return max(0.0, rx - weight.rx_bytes * readings), max(0.0, tx - weight.tx_bytes * readings)


def _account(evidence: HostEvidence, stage: Stage, uuid: str, series: CounterSeries | None, rates: Rates) -> Account:
    copies = stage.copies.get(uuid)
    wire = read_wire(evidence, uuid, series, stage, rates.ruler)
    fastest = max((evidence.alone[uuid].get(way, 0.0) for way in (H2D, D2H)), default=0.0)
    return Account(
        uuid=uuid,
        stage=stage,
        copied={way: copies.nbytes(way) if copies else 0 for way in (H2D, D2H)},
        counted=rates.count(*wire) if wire else None,
        most=fastest * (stage.end_s - stage.start_s) or 1.0,
    )
