"""What the PCIe check knows when a run is over: the link, the traffic on it, and the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from djinn_checks.checks.pcie.decode_run import DecodeRun
from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.calibration import Calibration
from djinn_checks.instruments.ceiling import Ceiling
from djinn_checks.instruments.counters import CounterSeries, Floats, check_span
from djinn_checks.instruments.entropy_floor import EntropyFloor
from djinn_checks.instruments.holes import bound_with_holes
from djinn_checks.instruments.link_health import LinkHealth
from djinn_checks.instruments.payload import Bounds, PayloadCounter, Reader
from djinn_checks.instruments.preflight import PreflightRow
from djinn_checks.params import PcieParams

MOST_OF_CEILING = 1.11
"""What a link carries on the wire is at most so much of what large copies put there. On PCIe 5.0 x16 these reach
59.7 of its 63.0 GB/s, 1 / 1.055, and the ceiling may have been measured 5 % too low."""
PCIE, HOST_MEMORY, REPLAY = "pcie", "host memory", "replay"

LABELS = {
    PCIE: "PCIe link of a GPU",
    HOST_MEMORY: "host-memory link: this machine has no PCIe GPU",
    REPLAY: "replay of a recorded trace",
}


@dataclass(frozen=True, kw_only=True)
class LinkFacts:
    """What was measured of the link before and after the run."""

    subject: str
    """PCIE, HOST_MEMORY or REPLAY."""
    recorded: bool = False
    """Of a REPLAY: a system ran on a GPU's link, and is judged again by its readings."""
    ceiling_bytes_per_s: float
    """Payload rate of large pinned copies to the device: the better of before and after the run."""
    back_bytes_per_s: float | None = None
    """The same to the host; None if it was not measured."""
    ceilings: tuple[Ceiling, ...] = ()
    """Before the run: to the device, back, both at once, and to the device from pageable memory."""
    ceiling_after: Ceiling | None = None
    sweep: tuple[Ceiling, ...] = ()
    preflight: tuple[PreflightRow, ...] = ()
    calibration: Calibration | None = None
    health: LinkHealth | None = None
    """Second by second; None where nothing tells it."""
    reasons: tuple[str, ...] = ()
    """Why counters or calibration are missing, or why a better source of counters was not used."""

    def __post_init__(self) -> None:
        """Refuse a ceiling that nothing can be held against.

        Raises:
            InstrumentError: it is not a finite rate above 0.
        """
        if not 0 < self.ceiling_bytes_per_s < math.inf:
            raise InstrumentError(
                f"link: expected a ceiling of more than 0 bytes/s, got {self.ceiling_bytes_per_s}; measure it again"
            )

    @property
    def wire_ceiling_bytes_per_s(self) -> float | None:
        """What large copies put on the wire; None without a calibration."""
        return self.ceiling_bytes_per_s * self.calibration.wire_per_payload if self.calibration else None

    def most_on_wire(self, direction: str) -> float | None:
        """Return what large copies put on the wire one way, rx or tx, in bytes/s; None without a calibration.

        Of what is sent, no less than of what is received: the two ways of a link have the same lanes.
        """
        received = self.wire_ceiling_bytes_per_s
        if received is None or direction == "rx" or self.back_bytes_per_s is None:
            return received
        return received * max(1.0, self.back_bytes_per_s / self.ceiling_bytes_per_s)

    def fit(self, series: CounterSeries) -> CounterSeries:
        """Return a series whose holes are those of this link: gaps in which half a wrap could have passed on it."""
        wire = self.wire_ceiling_bytes_per_s
        return series if wire is None else series.over(MOST_OF_CEILING * wire)


@dataclass(frozen=True, kw_only=True)
class PcieEvidence:
    """Everything that the criteria are judged by."""

    params: PcieParams
    link: LinkFacts
    series: CounterSeries | None
    start_s: float
    end_s: float
    """The time that is judged, CLOCK_MONOTONIC."""
    claimed_bytes: int | None
    """In that time, by the system; in a replay the truth recorded beside the trace."""
    run: DecodeRun | None = None
    """None in a replay."""
    weight_bytes: int | None = None
    budget_bytes: int | None = None
    encodes: bool = False
    """The system says that weights travel in fewer bytes than they have."""
    floor: EntropyFloor | None = None
    """The fewest bytes that the weights can be put in; None if it was not measured."""
    recorded_passes: int | None = None
    """How many passes a recorded trace holds, by its truth."""
    used_bytes: int | None = None
    """Bytes a pass that a reader makes use of at most, where that is known; None: all weights."""
    unrouted_bytes: int = 0
    """Of the weights, experts that the token of a pass is not routed to: a system need not fetch them."""

    def __post_init__(self) -> None:
        """Refuse a run without a time in which anything could be counted, or with a claim below nothing.

        Raises:
            InstrumentError: as `check_span`, or the claim is negative.
        """
        check_span(self.start_s, self.end_s, "judged time")
        if self.claimed_bytes is not None and self.claimed_bytes < 0:
            raise InstrumentError(
                f"claimed bytes: expected 0 or more, got {self.claimed_bytes:,}; give None if there is no count"
            )

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s

    @cached_property
    def window_rates(self) -> Floats | None:
        """Payload received in each window of `window_ms`, bytes/s, as is likely; NaN is lost evidence. None without
        counters."""
        return self.rates(self.start_s, self.end_s, self.params.window_ms / 1e3)

    @cached_property
    def window_bounds(self) -> tuple[Floats, Floats] | None:
        """Between what rates each lies, had data gone to the host; the likely ones twice if nothing speaks for it."""
        rates, width = self.window_rates, self.params.window_ms / 1e3
        if self.series is None or self.counter is None or rates is None:
            return None
        least, most = rates, rates
        if self.may_be_more:
            low, high = self.counter.bound_windows(self.series, self.start_s, self.end_s, width)
            least, most = np.minimum(low / width, rates), np.maximum(high / width, rates)
        return least, most

    @cached_property
    def unclear_rate(self) -> Floats | float:
        """By how much each may be more or less, for queries beside it that took long, bytes/s."""
        if self.series is None:
            return 0.0
        share = self.series.unclear_share(self.start_s, self.end_s, self.params.window_ms / 1e3)
        return share * MOST_OF_CEILING * self.link.ceiling_bytes_per_s

    @cached_property
    def may_be_more(self) -> bool:
        """Whether what may have come is more than what certainly did, by more than the tolerance.

        A system that claims no more than the latter settles it.
        """
        if self.bounds is None:
            return False
        least = (1 + self.params.byte_tolerance) * self.bounds.least
        return self.bounds.most > least and (self.claimed_bytes is None or self.claimed_bytes > least)

    @cached_property
    def counter(self) -> PayloadCounter | None:
        """What counts payload on this link; None without counters or calibration."""
        if self.series is None or self.link.calibration is None:
            return None
        return self.link.calibration.counter(self.series)

    def rates(self, start_s: float, end_s: float, window_s: float, direction: str = "rx") -> Floats | None:
        """Return payload rates of windows in bytes/s; of what is sent to the host, wire bytes over the ratio."""
        if self.series is None or self.counter is None:
            return None
        if direction == "rx":
            _, counted = self.counter.windows(self.series, start_s, end_s, window_s)
            return np.asarray(counted / window_s, dtype=np.float64)
        _, sent = self.series.windows(start_s, end_s, window_s, direction)
        return np.asarray(sent / self.counter.wire_per_payload / window_s, dtype=np.float64)

    @cached_property
    def counted_bytes(self) -> float | None:
        """Payload received from start to end, by the counters, as is likely."""
        return self.counted_between(self.start_s, self.end_s)

    def counted_between(self, start_s: float, end_s: float) -> float | None:
        """Return the payload received between two instants, or None if evidence is lost."""
        if self.series is None or self.counter is None:
            return None
        return self.counter.between(self.series, start_s, end_s)

    @cached_property
    def bounds(self) -> Bounds | None:
        """Between what the payload lies, had data gone to the host meanwhile, and whatever passed in holes."""
        ceiling = self.link.wire_ceiling_bytes_per_s
        if self.series is None or self.counter is None or ceiling is None:
            return None
        most_per_s = MOST_OF_CEILING * self.link.ceiling_bytes_per_s
        return bound_with_holes(self.counter, self.series, self.start_s, self.end_s, most_per_s)

    @property
    def least_bytes(self) -> float | None:
        """The payload that certainly came; what was counted, where nothing speaks for less."""
        return self._open_bounds.least if self._open_bounds is not None else self.counted_bytes

    @property
    def most_bytes(self) -> float | None:
        """The most payload that may have come."""
        return self._open_bounds.most if self._open_bounds is not None else self.counted_bytes

    @property
    def _open_bounds(self) -> Bounds | None:
        """The bounds where they are reckoned with; None where what was counted is what came."""
        return self.bounds if self.may_be_more or self.counted_bytes is None else None

    @cached_property
    def reader(self) -> Reader | None:
        """Who read host memory, by the size of its requests."""
        if self.series is None or self.counter is None:
            return None
        return self.counter.reader(self.series, self.start_s, self.end_s)

    @cached_property
    def wire_of_ceiling(self) -> float | None:
        """How full the wire was: received wire bytes over what large copies put there in the same time."""
        ceiling = self.link.wire_ceiling_bytes_per_s
        if self.series is None or self.counter is None or ceiling is None:
            return None
        wire = self.counter.wire_between(self.series, self.start_s, self.end_s)
        return None if wire is None else wire / self.duration_s / ceiling

    @property
    def passes(self) -> int | None:
        """How many passes ran; None if a recorded trace does not say."""
        return len(self.run.pass_ends_s) if self.run is not None else self.recorded_passes

    @property
    def counted_per_pass(self) -> float | None:
        """Mean payload per pass, by the counters."""
        if not self.passes or self.counted_bytes is None:
            return None
        return self.counted_bytes / self.passes

    @property
    def least_per_pass(self) -> int | None:
        """Bytes that have to come in every pass: what of the weights the budget cannot hold.

        Of a system that encodes, in the fewest bytes that the weights' entropy allows, in the budget and on the wire:
        max(0, entropy - budget). None if that is not known.
        """
        if self.weight_bytes is None or self.budget_bytes is None:
            return None
        if not self.encodes:
            return self.weight_bytes - self.budget_bytes
        return None if self.floor is None else max(0, int(self.floor.certain_bytes) - self.budget_bytes)

    @property
    def weight_rate_of_ceiling(self) -> float | None:
        """Weight bytes a second over the ceiling: above 1 only where a pass was seen to use decoded weights.

        Of a system that encodes, the bytes that were certainly written in a pass, if all weights were seen in use bit
        for bit. Of any other, what the link brought, but no more than all weights in a pass.
        """
        if not self.encodes or self.run is None:
            return self._brought_of_ceiling()
        seen = self.run.seen
        if seen is None or seen.missing:
            return None
        return seen.written_bytes / self.run.seconds_per_pass / self.link.ceiling_bytes_per_s

    def _brought_of_ceiling(self) -> float | None:
        if self.encodes or self.counted_per_pass is None or self.weight_bytes is None or not self.passes:
            return None
        brought = min(self.counted_per_pass, self.used_bytes or self.weight_bytes)
        return brought * self.passes / self.duration_s / self.link.ceiling_bytes_per_s

    @property
    def needed_per_pass(self) -> float | None:
        """Bytes to move per pass, M - C: by the system's plan, but no more than were really counted, and than it has.

        Without a plan all weights; on a link without counters the plan is taken at its word. With holes in the evidence
        no more than may have come.
        """
        if self.counted_bytes is None and self.most_bytes is not None and self.passes:
            return self._plan(self.most_bytes / self.passes)
        return self._plan(self.counted_per_pass)

    def _plan(self, came_per_pass: float | None) -> float | None:
        if self.run is None or self.weight_bytes is None:
            return None
        planned = self.weight_bytes if self.run.predicted_bytes is None else self.run.predicted_bytes
        planned = min(planned, self.weight_bytes)
        return planned if came_per_pass is None else min(planned, came_per_pass)

    @property
    def limit_s(self) -> float | None:
        """Seconds per pass at the link's ceiling, (M - C) / B."""
        needed = self.needed_per_pass
        return None if needed is None else needed / self.link.ceiling_bytes_per_s

    @property
    def limit_ratio(self) -> float | None:
        """(M - C) / B over the measured seconds per pass: 1 is the link's limit."""
        if self.run is None or self.limit_s is None:
            return None
        return self.limit_s / self.run.seconds_per_pass

    @property
    def limit_ratios(self) -> tuple[float, float] | None:
        """The same, had the least come and the most; None if it is not known how many that is."""
        if self.run is None or self.least_bytes is None or self.most_bytes is None or not self.passes:
            return None
        needed = [self._plan(total / self.passes) for total in (self.least_bytes, self.most_bytes)]
        if needed[0] is None or needed[1] is None:
            return None
        at_ceiling = self.link.ceiling_bytes_per_s * self.run.seconds_per_pass
        return needed[0] / at_ceiling, needed[1] / at_ceiling

    @property
    def streamed_of_ceiling(self) -> float | None:
        """Mean payload rate over the ceiling."""
        if self.counted_bytes is None:
            return None
        return self.counted_bytes / self.duration_s / self.link.ceiling_bytes_per_s
