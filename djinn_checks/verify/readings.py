"""A PCIe outcome's figures, derived again from the counters' raw readings that lie beside it.

The readings come from a process of their own. What they do not tell is taken from the outcome and said to be believed:
when the run began and ended, the ratio of known copies, what the clock of the check and the allocator said, and what
the system claimed. The ceiling stands between the two: the copies that it was measured with are in the readings, too.

Readings are written to the microsecond, so a rate in a window of 20 ms may come out otherwise by some parts in 10^4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from djinn_checks.checks.pcie.decode_run import DecodeRun
from djinn_checks.checks.pcie.evidence import HOST_MEMORY, PCIE, REPLAY, LinkFacts, PcieEvidence
from djinn_checks.checks.pcie.replay import find_way_back
from djinn_checks.errors import InstrumentError, ParamsError
from djinn_checks.instruments.calibration import Calibration
from djinn_checks.instruments.counters import RATE_SOURCES
from djinn_checks.instruments.traces import load_trace
from djinn_checks.measurements import pcie
from djinn_checks.params import PcieParams
from djinn_checks.verify.finding import Finding, agrees, believed, compare, disagrees, unreadable

NEAR = 1e-4
"""Of figures that are derived from readings as they are written."""
_WINDOW_OFF = 3e-3
"""Of the link's ceiling, for a window of 20 ms; shorter ones are off by more, as their two ends stay as they are."""
_OFF_IN_MS = 20.0
_CEILING_OFF = 0.05
"""A ceiling may have been measured so much too low (`evidence.py`), and the fastest 20 ms lie above a mean."""
_CEILING_WINDOW_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """An outcome's run as its readings tell it."""

    file: str
    """Of the readings, within the folder."""
    found: pcie.PcieMeasurements
    evidence: PcieEvidence

    @cached_property
    def passes(self) -> int | None:
        return self.found["bytes"]["passes"]


def read_recorded(params: Mapping[str, Any], found: pcie.PcieMeasurements, trace: Path) -> Recorded:
    """Return the evidence as the readings and the outcome's own facts give it.

    Raises:
        InstrumentError: the readings or the facts cannot be those of a run.
        ParamsError: the outcome's parameters are none of this version.
        KeyError, TypeError, ValueError: the outcome lacks what says when and how the readings were taken.
    """
    link, windows, traffic = found["link"], found["windows"], found["bytes"]
    if windows is None or link["calibration"] is None:
        raise ValueError("it does not say when, or how calibrated, the readings were taken")
    facts = LinkFacts(
        subject=REPLAY,  # its other rows are about ceilings whose instants are not written down
        recorded=link["subject"] == PCIE,
        ceiling_bytes_per_s=float(link["ceiling_bytes_per_s"]),
        back_bytes_per_s=find_way_back(link),
        calibration=Calibration(**link["calibration"]),
    )
    start_s, passes = float(windows["clock_start_s"]), traffic["passes"]
    end_s = start_s + float(windows["duration_s"])
    predicted, claimed, memory = traffic["predicted"], traffic["claimed"], found.get("memory")
    run = None
    if passes and memory:
        run = DecodeRun(
            start_s=start_s,
            end_s=end_s,
            pass_ends_s=tuple(np.linspace(start_s, end_s, passes + 1)[1:].tolist()),  # only how many there are is used
            predicted_bytes=None if predicted is None else predicted // passes,
            claimed_bytes=claimed,
            witnessed_bytes=traffic["witnessed_a_pass"],
            peak_device_bytes=memory["peak_device_bytes"],
            host_growth_bytes=memory["host_growth_bytes"],
            open_s=0.0,
            timeline=(),
        )
    asked = {name: value for name, value in params.items() if name in PcieParams.model_fields}
    evidence = PcieEvidence(
        params=PcieParams.create(**{**asked, "trace": str(trace), "gpus": "", "device": "cpu"}),
        link=facts,
        series=facts.fit(load_trace(trace, wraps=link["counters"] not in RATE_SOURCES)),
        start_s=start_s,
        end_s=end_s,
        claimed_bytes=claimed,
        run=run,
    )
    return Recorded(file=trace.name, found=found, evidence=evidence)


def why_unread(found: pcie.PcieMeasurements) -> str:
    """Return why a run has no readings; empty if it has to have some."""
    link = found.get("link")
    if link is None:
        return "the run ended before anything was measured"
    if link["subject"] == HOST_MEMORY:
        return "nothing counts a link between two places in host memory, so there are no readings"
    if link["subject"] != REPLAY and (link["counters"] is None or not found.get("windows")):
        return "the link was not counted, so there are no readings"
    return ""


def try_recorded(file: str, params: Mapping[str, Any], found: pcie.PcieMeasurements, trace: Path) -> Recorded | Finding:
    """Return the run as its readings tell it, or that they cannot be read."""
    try:
        return read_recorded(params, found, trace)
    except (InstrumentError, ParamsError, KeyError, TypeError, ValueError, OverflowError) as error:
        return unreadable(trace.name, f"readings of {file}", str(error) or type(error).__name__)


def verify_figures(file: str, run: Recorded) -> Iterator[Finding]:
    """Hold the bytes, the windows and the ceiling that an outcome states against the readings."""
    found, evidence = run.found, run.evidence
    traffic, limit = found["bytes"], found["limit"]
    wire = evidence.series.bytes_between(evidence.start_s, evidence.end_s) if evidence.series else None
    source = f"the readings in {run.file}"
    yield compare(file, "bytes.counted", traffic["counted"], evidence.counted_bytes, source, relative=NEAR)
    yield compare(file, "bytes.wire", traffic["wire"], wire, source, relative=NEAR)
    streamed = limit["streamed_of_ceiling"]
    yield compare(file, "limit.streamed_of_ceiling", streamed, evidence.streamed_of_ceiling, source, relative=NEAR)
    figures = found.get("figures")
    if figures:
        told = figures["wire_of_ceiling"]
        yield compare(file, "figures.wire_of_ceiling", told, evidence.wire_of_ceiling, source, relative=NEAR)
    yield from _verify_windows(file, run, source)
    yield from _verify_zoom(file, run, source)
    yield _verify_ceiling(file, run, source)


def _verify_windows(file: str, run: Recorded, source: str) -> Iterator[Finding]:
    windows, evidence = run.found["windows"], run.evidence
    if windows is None:
        return
    for name, direction in (("rx_mb_per_s", "rx"), ("tx_mb_per_s", "tx")):
        again = evidence.rates(evidence.start_s, evidence.end_s, float(windows["window_s"]), direction)
        yield _hold_series(file, f"windows.{name}", windows[name], again, _allow(run, windows["window_s"]), source)  # type: ignore[literal-required]


def _verify_zoom(file: str, run: Recorded, source: str) -> Iterator[Finding]:
    zoom = run.found.get("zoom")
    if not zoom or zoom["rx_mb_per_s"] is None:
        return
    start, end = (run.evidence.start_s + float(zoom[name]) for name in ("start_s", "end_s"))
    again = run.evidence.rates(start, end, float(zoom["window_s"]))
    allowed = _allow(run, zoom["window_s"])
    yield _hold_series(file, "zoom.rx_mb_per_s", zoom["rx_mb_per_s"], again, allowed, source)


def _allow(run: Recorded, window_s: float) -> float:
    """Return how far a window's rate may be off, in MB/s: a microsecond at either end counts the more, the shorter."""
    share = _WINDOW_OFF * max(1.0, _OFF_IN_MS / max(float(window_s) * 1e3, 1e-3))
    return share * run.evidence.link.ceiling_bytes_per_s / 1e6 + 1


def _hold_series(file: str, what: str, told: Any, again: Any, allowed: float, source: str) -> Finding:
    rates = [] if again is None else [None if np.isnan(rate) else float(rate) / 1e6 for rate in again]
    if abs(len(rates) - len(told)) > 1:  # where the last one ends may be rounded
        return disagrees(file, what, f"has {len(told):,} windows, and by {source} there are {len(rates):,}")
    for number, (one, other) in enumerate(zip(told, rates, strict=False)):
        is_near = one is None if other is None else one is not None and abs(float(one) - other) <= allowed
        if not is_near:
            found = "lost" if other is None else f"{other:,.0f} MB/s"
            return disagrees(file, f"{what}[{number}]", f"says {one} MB/s, and by {source} it is {found}")
    return agrees(file, what, f"{len(told):,} windows, each by {source}, within {allowed:,.0f} MB/s")


def _verify_ceiling(file: str, run: Recorded, source: str) -> Finding:
    """The ceiling's copies are the fastest that the link saw while nothing was judged."""
    evidence, what = run.evidence, "link.ceiling_bytes_per_s"
    fastest = max((rate for rate in _fastest_outside(evidence)), default=None)
    told = evidence.link.ceiling_bytes_per_s
    if fastest is None:
        return believed(file, what, f"{source} do not reach beyond the run, where the ceiling was measured")
    if abs(fastest / told - 1) <= _CEILING_OFF:
        return agrees(file, what, f"{source} before and after the run, within {_CEILING_OFF:.0%}")
    return disagrees(
        file,
        what,
        f"says {told / 1e9:.2f} GB/s, and by {source} the fastest {_CEILING_WINDOW_S * 1e3:.0f} ms before and after "
        f"the run, when it was measured, had {fastest / 1e9:.2f} GB/s",
    )


def _fastest_outside(evidence: PcieEvidence) -> Iterator[float]:
    series = evidence.series
    if series is None or not len(series.t_s):
        return
    spans = ((float(series.t_s[0]), evidence.start_s), (evidence.end_s, float(series.t_s[-1])))
    for start, end in spans:
        if end - start < _CEILING_WINDOW_S:
            continue
        rates = evidence.rates(start, end, _CEILING_WINDOW_S)
        if rates is not None and np.isfinite(rates).any():
            yield float(np.nanmax(rates))
