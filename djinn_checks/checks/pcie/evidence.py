"""What the PCIe check knows when a run is over: the link, the traffic on it, and the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from djinn_checks.checks.pcie.decode_loop import DecodeRun
from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.counters import CounterSeries, Floats, check_span
from djinn_checks.instruments.link_ceiling import Calibration, Ceiling
from djinn_checks.instruments.preflight import PreflightRow
from djinn_checks.params import PcieParams

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
    ceiling_bytes_per_s: float
    """Payload rate of large pinned copies to the device: the better of before and after the run."""
    ceilings: tuple[Ceiling, ...] = ()
    """Before the run: to the device, back, both at once, and to the device from pageable memory."""
    ceiling_after: Ceiling | None = None
    sweep: tuple[Ceiling, ...] = ()
    preflight: tuple[PreflightRow, ...] = ()
    calibration: Calibration | None = None
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
        """Payload received in each window of `window_ms`, bytes/s; NaN is lost evidence. None without counters."""
        return self.rates(self.start_s, self.end_s, self.params.window_ms / 1e3)

    def rates(self, start_s: float, end_s: float, window_s: float, direction: str = "rx") -> Floats | None:
        """Return payload rates of windows in bytes/s: wire bytes over the calibrated ratio."""
        if self.series is None or self.link.calibration is None:
            return None
        _, counted = self.series.windows(start_s, end_s, window_s, direction)
        return np.asarray(counted / self.link.calibration.wire_per_payload / window_s, dtype=np.float64)

    @cached_property
    def counted_bytes(self) -> float | None:
        """Payload received from start to end, by the counters."""
        return self.counted_between(self.start_s, self.end_s)

    def counted_between(self, start_s: float, end_s: float) -> float | None:
        """Return the payload received between two instants, or None if evidence is lost."""
        if self.series is None or self.link.calibration is None:
            return None
        wire = self.series.bytes_between(start_s, end_s)
        return None if wire is None else wire / self.link.calibration.wire_per_payload

    @property
    def counted_per_pass(self) -> float | None:
        """Mean payload per pass, by the counters."""
        if self.run is None or self.counted_bytes is None:
            return None
        return self.counted_bytes / len(self.run.pass_ends_s)

    @property
    def needed_per_pass(self) -> float | None:
        """Bytes to move per pass, M - C: by the system's plan, but no more than were really counted.

        Without a plan all weights; on a link without counters the plan is taken at its word.
        """
        if self.run is None or self.weight_bytes is None:
            return None
        planned = self.weight_bytes if self.run.predicted_bytes is None else self.run.predicted_bytes
        return planned if self.counted_per_pass is None else min(planned, self.counted_per_pass)

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
    def streamed_of_ceiling(self) -> float | None:
        """Mean payload rate over the ceiling."""
        if self.counted_bytes is None:
            return None
        return self.counted_bytes / self.duration_s / self.link.ceiling_bytes_per_s
