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

import json
from pathlib import Path
from typing import Any

from djinn_checks.bounded import read_text
from djinn_checks.checks.pcie.evidence import REPLAY, LinkFacts, PcieEvidence
from djinn_checks.errors import InstrumentError, OutcomeError, ParamsError
from djinn_checks.instruments.calibration import Calibration, calibrate_from_trace
from djinn_checks.instruments.counters import RATE_SOURCES, check_span
from djinn_checks.instruments.entropy_floor import EntropyFloor
from djinn_checks.instruments.traces import load_trace
from djinn_checks.measurements import pcie
from djinn_checks.outcome import Outcome
from djinn_checks.params import PcieParams

KNOWN_COPY = "copy_h2d"


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
    truth = _read_truth(path.parent / "truth.json")
    try:
        span, known = truth[name], truth[KNOWN_COPY]
        check_span(known["t_start_s"], known["t_end_s"], f"truth of {KNOWN_COPY}")
        known_series = load_trace(path.parent / f"{KNOWN_COPY}.csv.gz")
        calibration = calibrate_from_trace(known_series, known["t_start_s"], known["t_end_s"], int(known["h2d_bytes"]))
        link = LinkFacts(
            subject=REPLAY,
            ceiling_bytes_per_s=known["h2d_bytes"] / (known["t_end_s"] - known["t_start_s"]),
            calibration=calibration,
        )
        return PcieEvidence(
            params=params,
            link=link,
            series=link.fit(load_trace(path)),
            start_s=float(span["t_start_s"]),
            end_s=float(span["t_end_s"]),
            claimed_bytes=int(span["h2d_bytes"]),
            weight_bytes=_maybe(span, "weight_bytes"),
            budget_bytes=_maybe(span, "budget_bytes"),
            encodes=bool(span.get("encodes", False)),
            floor=_floor(span),
            recorded_passes=_maybe(span, "passes"),
            used_bytes=_maybe(span, "used_bytes"),
        )
    except InstrumentError as error:
        raise ParamsError(f"trace: {error}") from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ParamsError(
            f"trace: {path.parent / 'truth.json'} needs t_start_s, t_end_s and h2d_bytes for {name!r} and for "
            f"{KNOWN_COPY!r}, the known copy ({type(error).__name__}: {error})"
        ) from error


def _maybe(span: dict[str, Any], name: str) -> int | None:
    return None if span.get(name) is None else int(span[name])


def _floor(span: dict[str, Any]) -> EntropyFloor | None:
    if span.get("least_bytes") is None:
        return None
    return EntropyFloor(
        weight_bytes=int(span["weight_bytes"]),
        least_bytes=float(span["least_bytes"]),
        error_bytes=0.0,
        share_of_field={},
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


def _read_truth(path: Path) -> dict[str, Any]:
    try:
        truth = json.loads(read_text(path))
    except OSError as error:
        raise ParamsError(f"trace: {path} must lie beside the trace and cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ParamsError(f"trace: {path} is not JSON ({error})") from error
    if not isinstance(truth, dict):
        raise ParamsError(f"trace: {path} is not a table of traces")
    return truth
