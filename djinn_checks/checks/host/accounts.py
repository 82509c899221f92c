"""The counters of each link against the copies that it made: what was counted in each stage, in both directions.

A link's first stage alone tells how many bytes on the wire each of payload has, both ways: reads of the host are
answered with data and something beside them, and cost requests that are sent; writes are sent. All later stages are
counted by these, both directions at once by solving for the two. Where a first stage gives no ratio that a wire can
have (another link's counters, say), the specification's own is taken: 256 bytes a packet, 20 beside an answer, 24
beside a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from djinn_checks.checks.host.driver import D2H, H2D
from djinn_checks.checks.host.evidence import ALONE, HostEvidence, Seen, Stage
from djinn_checks.instruments.counters import CounterSeries
from djinn_checks.instruments.link_ceiling import weigh_ruler
from djinn_checks.instruments.payload import ANSWER_BYTES, LARGEST_REQUEST_BYTES, REQUEST_BYTES, RulerWeight

_SIZE = LARGEST_REQUEST_BYTES
_LARGEST_RATIO = 1.7
"""Of packets of 32 bytes, the smallest that anybody reads with, it is 1.63."""
_MOST_OF_CEILING = 1.25
"""What a link carries on the wire at most, of its fastest payload alone: packets' own bytes, and a slow measurement."""


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

    def count(self, rx: float, tx: float) -> dict[str, float]:
        """Return the payload that makes up what was received and sent."""
        down, up = np.linalg.solve(np.array([self.received, self.sent]), np.array([rx, tx]))
        return {H2D: float(down), D2H: float(up)}


def fit_series(evidence: HostEvidence, link: Seen) -> CounterSeries | None:
    """Return a link's series, its holes those of a link of its rate."""
    fastest = max((evidence.alone[link.uuid].get(way, 0.0) for way in (H2D, D2H)), default=0.0)
    if link.series is None or not fastest:
        return link.series
    return link.series.over(_MOST_OF_CEILING * fastest)


def list_accounts(evidence: HostEvidence) -> list[Account]:
    """Return the account of every link in every stage, those that rested included."""
    series = {link.uuid: fit_series(evidence, link) for link in evidence.seen}
    rates = {link.uuid: find_rates(evidence, link.uuid, series[link.uuid]) for link in evidence.seen}
    return [
        _account(evidence, stage, link.uuid, series[link.uuid], rates[link.uuid])
        for stage in evidence.stages
        for link in evidence.seen
        if link.series is not None or link.uuid in stage.copies
    ]


def find_rates(evidence: HostEvidence, uuid: str, series: CounterSeries | None) -> Rates:
    """Return how a link's bytes are counted, by its first stages alone as far as they can be believed."""
    ruler = weigh_ruler(series, *evidence.idle_s) if series is not None else None
    down, up = (_read_first(evidence, uuid, way, series, ruler) for way in (H2D, D2H))
    believed = down is not None and up is not None and _is_possible(down[0]) and _is_possible(up[1])
    if not believed or down is None or up is None:
        down = (_SIZE + ANSWER_BYTES) / _SIZE, REQUEST_BYTES / _SIZE
        up = 0.0, (_SIZE + REQUEST_BYTES) / _SIZE
    return Rates(received=(down[0], up[0]), sent=(down[1], up[1]), by_first_stage=believed, ruler=ruler)


def _is_possible(ratio: float) -> bool:
    return 1.0 <= ratio <= _LARGEST_RATIO


def _read_first(
    evidence: HostEvidence, uuid: str, way: str, series: CounterSeries | None, ruler: RulerWeight | None
) -> tuple[float, float] | None:
    """Return what was received and sent for each byte of the first stage alone."""
    first = next((stage for stage in evidence.list_stages(ALONE, way) if uuid in stage.copies), None)
    wire = _read_wire(series, first, ruler) if first is not None else None
    if wire is None or first is None:
        return None
    nbytes = first.copies[uuid].nbytes(way)
    return wire[0] / nbytes, wire[1] / nbytes


def _read_wire(series: CounterSeries | None, stage: Stage, ruler: RulerWeight | None) -> tuple[float, float] | None:
    if series is None:
        return None
    rx, tx = (series.bytes_between(stage.start_s, stage.end_s, way) for way in ("rx", "tx"))
    if rx is None or tx is None:
        return None
    readings = series.readings_between(stage.start_s, stage.end_s)
    weight = ruler or RulerWeight(rx_bytes=0.0, tx_bytes=0.0)
    return max(0.0, rx - weight.rx_bytes * readings), max(0.0, tx - weight.tx_bytes * readings)


def _account(evidence: HostEvidence, stage: Stage, uuid: str, series: CounterSeries | None, rates: Rates) -> Account:
    copies = stage.copies.get(uuid)
    wire = _read_wire(series, stage, rates.ruler)
    fastest = max((evidence.alone[uuid].get(way, 0.0) for way in (H2D, D2H)), default=0.0)
    return Account(
        uuid=uuid,
        stage=stage,
        copied={way: copies.nbytes(way) if copies else 0 for way in (H2D, D2H)},
        counted=rates.count(*wire) if wire else None,
        most=fastest * (stage.end_s - stage.start_s) or 1.0,
    )
