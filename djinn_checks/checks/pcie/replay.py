"""A recorded trace in place of a run: the same criteria, judged on readings that were taken elsewhere.

Beside `<name>.csv.gz` lie `truth.json`, which says when the work ran and what was really moved, and
`copy_h2d.csv.gz`, the trace of a copy of known size on the same machine, which calibrates the counters and
gives the ceiling. A truth may also say what was streamed: `passes`, `weight_bytes` and `budget_bytes`, `used_bytes`
(of each pass, if it uses less than all weights), and of layers that travelled encoded `encodes` and `least_bytes`, the
fewest that the weights' entropy allows. Then the claims about the weights are judged, too.

The samples that a run of this check kept, `<name>.samples.csv.gz`, are replayed with the outcome beside them,
`<name>.outcome.json`: its time, calibration, ceiling and claim, other windows and thresholds.
"""

from __future__ import annotations

from pathlib import Path

from djinn_checks.checks.pcie.evidence import REPLAY, LinkFacts, PcieEvidence
from djinn_checks.checks.pcie.truth import Truth, read_truth
from djinn_checks.errors import InstrumentError, OutcomeError, ParamsError
from djinn_checks.instruments.calibration import Calibration, calibrate_from_trace
from djinn_checks.instruments.counters import RATE_SOURCES
from djinn_checks.instruments.entropy_floor import EntropyFloor
from djinn_checks.instruments.traces import load_trace
from djinn_checks.measurements import pcie
from djinn_checks.outcome import Outcome
from djinn_checks.params import PcieParams

KNOWN_COPY = "copy_h2d"
_FEWEST_ON_WIRE = 0.98
"""Bytes on the wire for each that was copied: more than 1, less what readings at its ends may miss."""


def replay_trace(params: PcieParams) -> PcieEvidence:
    """Return the evidence of the recorded trace `params.trace`.

    Raises:
        ParamsError: the trace, its truth or the known copy beside it is missing or cannot be read.
    """
    path = Path(params.trace)
    if not path.is_file():
        raise ParamsError(f"trace: there is no file {params.trace!r} (relative paths start at {Path.cwd().name!r})")
    name = path.name.removesuffix(".csv.gz")
    if name.endswith(".samples"):
        return _replay_samples(params, path, _find_outcome(path, name.removesuffix(".samples")))
    truths = path.parent / "truth.json"
    span, known = read_truth(truths, name), read_truth(truths, KNOWN_COPY)
    try:
        known_series = load_trace(path.parent / f"{KNOWN_COPY}.csv.gz")
        calibration = calibrate_from_trace(known_series, known.t_start_s, known.t_end_s, known.h2d_bytes)
        _check_known_copy(calibration)
        link = LinkFacts(
            subject=REPLAY,
            ceiling_bytes_per_s=known.h2d_bytes / (known.t_end_s - known.t_start_s),
            calibration=calibration,
        )
        return PcieEvidence(
            params=params,
            link=link,
            series=link.fit(load_trace(path)),
            start_s=span.t_start_s,
            end_s=span.t_end_s,
            claimed_bytes=span.h2d_bytes,
            weight_bytes=span.weight_bytes,
            budget_bytes=span.budget_bytes,
            encodes=span.encodes,
            floor=_floor(span),
            recorded_passes=span.passes,
            used_bytes=span.used_bytes,
        )
    except InstrumentError as error:
        raise ParamsError(f"trace: {error}") from error


def _check_known_copy(calibration: Calibration) -> None:
    """Refuse a known copy that was not of the size or of the time that its truth says.

    Raises:
        ParamsError: fewer bytes were on the wire than were copied, which no link can.
    """
    if calibration.wire_per_payload < _FEWEST_ON_WIRE:
        raise ParamsError(
            f"trace: expected more than a byte on the wire for each that {KNOWN_COPY} moved, got "
            f"{calibration.wire_per_payload:.2f} between its t_start_s and t_end_s; check its times and h2d_bytes in "
            "truth.json"
        )


def _floor(span: Truth) -> EntropyFloor | None:
    if span.least_bytes is None or span.weight_bytes is None:
        return None
    return EntropyFloor(
        weight_bytes=span.weight_bytes, least_bytes=span.least_bytes, error_bytes=0.0, share_of_field={}
    )


def _find_outcome(path: Path, name: str) -> Path:
    """Return the outcome that samples belong to, as a suite names it or as `save_to` did."""
    places = [path.with_name(f"{name}.outcome.json"), path.with_name(f"{name}.json")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ParamsError(f"trace: {path.name} needs its outcome beside it, {places[0].name} or {places[1].name}")
    return found


def _replay_samples(params: PcieParams, path: Path, kept: Path) -> PcieEvidence:
    try:
        measured = pcie.read(Outcome.load(kept).measurements)
        link, windows = measured["link"], measured["windows"]
        calibration = link["calibration"]
        if windows is None or calibration is None:
            raise ValueError("its link was not counted")
        start_s = float(windows["clock_start_s"])
        facts = LinkFacts(
            subject=REPLAY,
            ceiling_bytes_per_s=float(link["ceiling_bytes_per_s"]),
            back_bytes_per_s=find_way_back(link),
            calibration=Calibration(**calibration),
        )
        return PcieEvidence(
            params=params,
            link=facts,
            series=facts.fit(load_trace(path, wraps=link["counters"] not in RATE_SOURCES)),
            start_s=start_s,
            end_s=start_s + float(windows["duration_s"]),
            claimed_bytes=measured["bytes"]["claimed"],
        )
    except (InstrumentError, OutcomeError) as error:
        raise ParamsError(f"trace: {error}") from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ParamsError(
            f"trace: {kept} says nothing about when, over which link and how calibrated {path.name} was recorded "
            f"({type(error).__name__}: {error})"
        ) from error


def find_way_back(link: pcie.LinkFacts) -> float | None:
    """Return the ceiling to the host of a recorded run, bytes/s; None if it was not measured."""
    return next((row["bytes_per_s"] for row in link["ceilings"] if row["direction"] == "d2h"), None)
