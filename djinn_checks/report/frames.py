"""An outcome's samples as frames of pandas, for exploring and for the CSV files beside a report.

One row a sample, columns named with their units. What a check measures once stands in its criteria; what it
measures many times stands here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from djinn_checks.outcome import Outcome
from djinn_checks.report.tables import Html, flatten, render_table

if TYPE_CHECKING:
    import pandas as pd

Rows = list[dict[str, Any]]

_KL = {"position": "position", "mean": "kl_mean_nats", "max": "kl_max_nats"}


def list_frames(outcome: Outcome) -> dict[str, pd.DataFrame]:
    """Return the samples of an outcome by name; always `criteria`, and those of its check that were measured."""
    import pandas as pd  # slow to import, and not needed for a verdict

    rows: dict[str, Rows] = {"criteria": [_criterion(row) for row in outcome.to_dict()["criteria"]]}
    read = _READERS.get(outcome.check)
    if read is not None:
        rows |= {name: found for name, found in read(outcome) if found}
    return {name: pd.DataFrame(found) for name, found in rows.items()}


def tabulate_frames(outcome: Outcome) -> Html:
    """Return which samples there are: the name of each frame, how many rows it has, and of what."""
    rows = [
        (name, f"{len(frame):,}", ", ".join(map(str, frame.columns))) for name, frame in list_frames(outcome).items()
    ]
    note = (
        "Frames of pandas: list_frames(outcome)[name]. A suite keeps each beside its report: <check>.samples.<name>.csv"
    )
    return render_table("Samples", ("Name", "Rows", "Columns"), rows, note=note, numeric=False)


def _criterion(row: Mapping[str, Any]) -> dict[str, Any]:
    first = ("name", "status", "required", "observed", "comparison", "threshold", "unit")
    return {name: row[name] for name in first} | {name: row[name] for name in row if name not in first}


def _read_logits(outcome: Outcome) -> Iterable[tuple[str, Rows]]:
    found = outcome.measurements
    yield "passes", list(found.get("passes") or ())
    yield "prompts", list(found.get("prompts") or ())
    for kind, prefix in (("statistics", ""), ("floor", "floor_")):
        for phase, one in (found.get(kind) or {}).items():
            yield f"{prefix}{phase}_kl", _columns(one.get("kl_by_position"), _KL)
            yield f"{prefix}{phase}_differences", _histogram(one.get("difference_histogram"))


def _histogram(found: Mapping[str, Any] | None) -> Rows:
    """Return how many logits differ by how much: from and to as powers of ten, and in a bin of its own those equal."""
    if not found:
        return []
    edges = found["log10_edges"]
    bins = zip(edges, edges[1:], found["negative"], found["positive"], strict=False)
    equal = {"log10_from": None, "log10_to": None, "negative": found["zero"], "positive": found["zero"]}
    return [equal] + [dict(zip(equal, one, strict=True)) for one in bins]


def _read_pcie(outcome: Outcome) -> Iterable[tuple[str, Rows]]:
    found = outcome.measurements
    yield "windows", _windows(found.get("windows"))
    link = found.get("link") or {}
    measured = [*(link.get("ceilings") or ()), link.get("ceiling_after"), *(link.get("sweep") or ())]
    yield "copies", [row for one in measured if one for row in _copies(one)]
    yield "timeline", list((found.get("zoom") or {}).get("timeline") or ())


def _windows(found: Mapping[str, Any] | None) -> Rows:
    """Return what was received and sent in each window, by the second at which it starts; None is lost evidence."""
    if not found:
        return []
    received, sent = found["rx_mb_per_s"], found["tx_mb_per_s"]
    pairs = itertools.zip_longest(received, sent)
    return [
        {"start_s": round(number * found["window_s"], 6), "rx_mb_per_s": rx, "tx_mb_per_s": tx}
        for number, (rx, tx) in enumerate(pairs)
    ]


def _copies(one: Mapping[str, Any]) -> Rows:
    """Return each timed copy of a measurement of the link's ceiling."""
    same = {name: one[name] for name in ("kind", "direction", "pinned", "nbytes")}
    return [{**same, "copy_s": seconds} for seconds in one["samples_s"]]


def _read_agents(outcome: Outcome) -> Iterable[tuple[str, Rows]]:
    timings, crowd = outcome.timings, outcome.timings.get("crowd") or {}
    yield "phases", list(timings.get("phases") or ())
    yield "sleeps", [dict(flatten(one)) for one in timings.get("sleeps") or ()]
    yield "memory", _pairs(timings.get("memory"))
    yield "wakes", list(crowd.get("wakes") or ())
    yield "crowd_memory", _pairs(crowd.get("memory"))
    yield "crowd_states", [{"at_s": at, **states} for at, states in crowd.get("states") or ()]


def _read_faults(outcome: Outcome) -> Iterable[tuple[str, Rows]]:
    found = outcome.measurements.get("faults") or ()
    yield "faults", [_joined(row, without="doses") for row in found]
    yield "doses", [{"name": row["name"], **_joined(dose)} for row in found for dose in row.get("doses") or ()]
    yield "clean", [_joined(row) for row in (outcome.measurements.get("clean") or {}).values()]


def _joined(row: Mapping[str, Any], without: str = "") -> dict[str, Any]:
    """Return a row with each list of names as one text."""
    return {
        name: " ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in row.items()
        if name != without
    }


def _pairs(found: Sequence[Sequence[float]] | None) -> Rows:
    return [{"at_s": at, "used_bytes": used} for at, used in found or ()]


def _columns(found: Mapping[str, Any] | None, names: Mapping[str, str]) -> Rows:
    """Return series of one length as rows; a series that is not there is left out."""
    there = {new: found[old] for old, new in names.items() if found.get(old)} if found else {}
    return [dict(zip(there, row, strict=True)) for row in zip(*there.values(), strict=True)]


_READERS: dict[str, Callable[[Outcome], Iterable[tuple[str, Rows]]]] = {
    "logits": _read_logits,
    "pcie": _read_pcie,
    "agents": _read_agents,
    "faults": _read_faults,
}
