"""A PCIe outcome's rows: each judged again on the raw readings, or worked out again from what the outcome measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from djinn_checks.checks.pcie.criteria import judge_evidence
from djinn_checks.checks.pcie.lean_pass import OF_ONE_PASS
from djinn_checks.checks.pcie.replay import replay_trace
from djinn_checks.errors import DjinnChecksError
from djinn_checks.measurements import pcie
from djinn_checks.outcome import Criterion, Observed, Outcome, Status
from djinn_checks.params import PcieParams
from djinn_checks.verify.finding import Finding, agrees, believed, compare, disagrees, unreadable
from djinn_checks.verify.readings import NEAR, Recorded, try_recorded, verify_figures, why_unread
from djinn_checks.verify.rows import hold_row

_SMALL = 1e-4
_BELIEVED = {
    "ceiling_undisturbed": "when the ceiling's copies ran is not written down",
    "vram_limit": "PyTorch's allocator said so while it ran",
    "host_memory": "the kernel said so while it ran",
    "device_memory": "PyTorch's allocator said so while it ran",
    "weights_decoded": "the weight witness saw it while it ran",
    "weight_rate": "how many bytes the weights have is the check's word",
    "link_training": "NVML said so while it ran",
    "link_replays": "NVML said so while it ran",
}
_OF_ALL_BYTES = ("time_per_pass_vs_limit", "streams_the_model", "claimed_vs_counted")
_FROM_MEASUREMENTS = "its measurements"


def verify_pcie(folder: Path, name: str, outcome: Outcome, traces: Path | None) -> Iterator[Finding]:
    """Derive what a PCIe outcome says again.

    Args:
        traces: where the recordings lie that were replayed; None: with the folder's own files, or nowhere.
    """
    file, found = f"{name}.outcome.json", pcie.read(outcome.measurements)
    gpus = found.get("gpus")
    if gpus:
        for number, gpu in enumerate(gpus):
            yield from _verify_gpu(folder, name, number, outcome.params, gpu)
        return
    why = why_unread(found)
    if why:
        yield believed(file, "all rows", f"{why}; each row was held against its own numbers and the measurements")
        return
    if found["link"]["subject"] == "replay":
        yield from _verify_replay(folder, file, outcome, traces)
        return
    trace = folder / f"{name}.samples.csv.gz"
    if not trace.is_file():
        yield believed(file, "all figures", f"{trace.name}, the raw readings, is not in the folder")
        return
    run = try_recorded(file, outcome.params, found, trace)
    if isinstance(run, Finding):
        yield run
        return
    yield from verify_figures(file, run)
    yield from _verify_ceilings(file, found)
    yield from _verify_rows(file, outcome, run)


def _verify_gpu(folder: Path, name: str, number: int, params: Mapping[str, Any], gpu: pcie.GpuRow) -> Iterator[Finding]:
    file, trace = f"{name}.outcome.json", folder / f"{name}.samples.{number}.csv.gz"
    told = f"GPU {number}"
    if not trace.is_file():
        yield believed(file, told, f"{trace.name}, the raw readings of this GPU, is not in the folder")
        return
    run = try_recorded(file, params, pcie.read(gpu["measurements"]), trace)
    if isinstance(run, Finding):
        yield run
        return
    for finding in verify_figures(file, run):
        yield Finding(kind=finding.kind, file=file, what=f"{told}: {finding.what}", why=finding.why)


def _verify_replay(folder: Path, file: str, outcome: Outcome, traces: Path | None) -> Iterator[Finding]:
    """A replay's trace is looked for by its name, in places that the reader named: an outcome names no path to read."""
    name = Path(str(outcome.params.get("trace", ""))).name
    place = next((place / name for place in (folder, *([traces] if traces else [])) if (place / name).is_file()), None)
    if not name or place is None:
        yield believed(file, "all figures", f"the recording {name or 'of the replay'} is not in the folder; name its "
                       "place with --traces")  # fmt: skip
        return
    try:
        asked = {key: value for key, value in outcome.params.items() if key in PcieParams.model_fields}
        rows = judge_evidence(replay_trace(PcieParams.create(**{**asked, "trace": str(place)})))
    except (DjinnChecksError, KeyError, TypeError, ValueError) as error:
        yield unreadable(name, f"recording of {file}", str(error))
        return
    again = {row.name: row for row in rows}
    for row in outcome.criteria:
        if row.name in again:
            yield hold_row(file, row, again[row.name], f"the recording {name}")
        else:
            yield believed(file, row.name, "this version has no such row")


def _verify_ceilings(file: str, found: pcie.PcieMeasurements) -> Iterator[Finding]:
    """Work out each ceiling from its rounds, and the link's from those before and after the run."""
    link = found["link"]
    told = [*link["ceilings"], *([link["ceiling_after"]] if link["ceiling_after"] else []), *link["sweep"]]
    wrong = [row for row in told if row["samples_s"] and not _follows(row)]
    what = "link.ceilings"
    if wrong:
        first = wrong[0]
        yield disagrees(
            file, what, f"says {first['bytes_per_s']:,.0f} bytes/s for copies {first['direction']} of "
            f"{first['nbytes']:,} bytes, which does not follow from its samples_s"
        )  # fmt: skip
    else:
        yield agrees(file, what, f"{len(told)} rates, each from its rounds")
    ends = [row["bytes_per_s"] for row in (*link["ceilings"][:1], link["ceiling_after"]) if row]
    if ends:
        source = "the ceilings before and after the run"
        yield compare(file, "link.ceiling_bytes_per_s from rounds", link["ceiling_bytes_per_s"], max(ends), source)


def _follows(row: pcie.CeilingRow) -> bool:
    ways = 2 if row["direction"] == "both" else 1
    return abs(row["bytes_per_s"] * min(row["samples_s"]) / (ways * row["nbytes"]) - 1) < _SMALL


def _verify_rows(file: str, outcome: Outcome, run: Recorded) -> Iterator[Finding]:
    again = {row.name: row for row in judge_evidence(run.evidence)}
    doubted = any(row.instrument is not False and row.status is Status.INCONCLUSIVE for row in outcome.criteria)
    worked_out = dict(_work_out(run))
    for row in outcome.criteria:
        told, source = worked_out.get(row.name, (None, ""))
        if row.name == "streams_the_model" and row.status is Status.FAIL and OF_ONE_PASS in row.reason:
            yield believed(file, row.name, "when each pass ended is not written down, and it failed by one of them")
        elif row.name in _OF_ALL_BYTES and run.evidence.counted_bytes is None:
            yield believed(file, row.name, "the readings have holes, and what may have passed in them was bounded")
        elif row.name in worked_out:
            yield _hold_value(file, row, told, source)
        elif row.name in _BELIEVED or row.name not in again:
            yield believed(file, row.name, _BELIEVED.get(row.name, "this version has no such row"))
        elif row.observed is None and row.status is not Status.SKIP and doubted:
            yield believed(file, row.name, "it was not decided, for a doubt about an instrument")
        elif row.status is Status.SKIP or again[row.name].status is Status.SKIP:
            yield believed(file, row.name, f"what it says is the check's word: {row.reason or row.evidence}"[:160])
        else:
            yield hold_row(file, row, again[row.name], f"the readings in {run.file}")


def _work_out(run: Recorded) -> Iterator[tuple[str, tuple[Observed, str]]]:
    """Return rows that are worked out of what was counted and measured, by name, with the source."""
    found, evidence, passes = run.found, run.evidence, run.passes
    link, traffic = found["link"], found["bytes"]
    rounds = [row for row in (*link["ceilings"], link["ceiling_after"]) if row]
    yield "ceiling_verified", (sum(not row["verified"] for row in rounds), _FROM_MEASUREMENTS)
    if link["ceilings"] and link["ceiling_after"]:
        drift = abs(link["ceiling_after"]["bytes_per_s"] / link["ceilings"][0]["bytes_per_s"] - 1)
        yield "ceiling_steady", (drift, _FROM_MEASUREMENTS)
    if link["calibration"]:
        idle = link["calibration"]["idle_bytes_per_s"] / link["ceiling_bytes_per_s"]
        yield "link_quiet", (idle, _FROM_MEASUREMENTS)
        yield "calibration", (link["calibration"]["residual"], _FROM_MEASUREMENTS)
    if evidence.counted_bytes is None or not passes:
        return
    source = f"the readings in {run.file} and {passes:,} passes"
    counted = evidence.counted_bytes / passes
    yield "streams_the_model", (counted, source)
    if traffic["claimed"] is not None:
        yield "reads_are_used", (traffic["claimed"] / passes, _FROM_MEASUREMENTS)
    planned = found["limit"]["needed_bytes"] if traffic["predicted"] is None else traffic["predicted"] / passes
    if planned is not None:
        needed = min(float(planned), counted)
        seconds = evidence.duration_s / passes
        yield "time_per_pass_vs_limit", (needed / evidence.link.ceiling_bytes_per_s / seconds, source)


def _hold_value(file: str, row: Criterion, again: Observed, source: str) -> Finding:
    """Hold a row's value against one that was worked out; what the row left open stays so."""
    if row.observed is None:
        return believed(file, row.name, f"it was not decided: {row.reason}"[:160])
    return compare(file, row.name, row.observed, again, source, relative=NEAR, absolute=1e-9)
