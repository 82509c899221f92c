"""An outcome's samples as frames of pandas, for exploring and for the CSV files beside a report.

One row for each sample, columns named with their units. What a check measures once stands in its criteria; what it
measures many times stands here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from djinn_checks.measurements import agents, faults, host, logits, pcie
from djinn_checks.measurements.agents import CrowdTimes, TurnRow
from djinn_checks.measurements.logits import DifferenceCounts, KlByPosition, LogitsStatistics
from djinn_checks.measurements.pcie import CeilingRow, Windows
from djinn_checks.outcome import Outcome
from djinn_checks.report.tables import Html, flatten, render_table

if TYPE_CHECKING:
    import pandas as pd

Rows = Sequence[Mapping[str, Any]]


class Frames(Mapping[str, "pd.DataFrame"]):
    """The samples of an outcome by name, each a frame of pandas once it is asked for: pandas is slow to load, and a
    notebook lists the frames for a reader who may look at none.
    """

    def __init__(self, rows: Mapping[str, Rows]) -> None:
        self.rows = rows
        self._made: dict[str, pd.DataFrame] = {}

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in self._made:
            import pandas as pd

            self._made[name] = pd.DataFrame(list(self.rows[name]))
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"frames of pandas, by name: {', '.join(self.rows)}"


def list_frames(outcome: Outcome) -> Frames:
    """Return the samples of an outcome by name; always `criteria`, and those of its check that were measured."""
    rows: dict[str, Rows] = {"criteria": [_criterion(row) for row in outcome.to_dict()["criteria"]]}
    read = _READERS.get(outcome.check)
    if read is not None:
        rows |= {name: list(found) for name, found in read(outcome) if found}
    return Frames(rows)


def tabulate_frames(outcome: Outcome) -> Html:
    """Return which samples there are: the name of each frame, how many rows it has, and of what."""
    rows = [
        (name, f"{len(found):,}", ", ".join(map(str, dict.fromkeys(column for row in found for column in row))))
        for name, found in list_frames(outcome).rows.items()
    ]
    note = (
        "Frames of pandas: list_frames(outcome)[name]. A suite keeps each beside its report: <check>.samples.<name>.csv"
    )
    return render_table("Samples", ("Name", "Rows", "Columns"), rows, note=note, numeric=False)


def _criterion(row: Mapping[str, Any]) -> dict[str, Any]:
    first = ("name", "status", "required", "observed", "comparison", "threshold", "unit")
    return {name: row[name] for name in first} | {name: row[name] for name in row if name not in first}


def _read_logits(outcome: Outcome) -> Iterable[tuple[str, Rows]]:
    found = logits.read(outcome.measurements)
    yield "passes", found.get("passes") or ()
    yield "prompts", found.get("prompts") or ()
    sides = (("system", "", found.get("statistics") or {}), ("floor", "floor_", found.get("floor") or {}))
    yield (
        "statistics",
        [_statistics_row(side, phase, measured) for side, _, phases in sides for phase, measured in phases.items()],
    )
    for _, prefix, phases in sides:
        for phase, measured in phases.items():
            yield f"{prefix}{phase}_kl", _kl(measured.get("kl_by_position"))
            yield f"{prefix}{phase}_differences", _histogram(measured.get("difference_histogram"))


def _statistics_row(side: str, phase: str, measured: LogitsStatistics) -> dict[str, Any]:
    """Return every statistic that is one number, nested names joined by dots."""
    numbers = {name: value for name, value in flatten(measured) if not isinstance(value, list)}
    return {"side": side, "phase": phase} | {
        name: float(value) if isinstance(value, str) else value for name, value in numbers.items()
    }


def _kl(found: KlByPosition | None) -> Rows:
    if not found:
        return []
    series = zip(found["position"], found["mean"], found["max"], strict=True)
    return [{"position": position, "kl_mean_nats": mean, "kl_max_nats": most} for position, mean, most in series]


def _histogram(found: DifferenceCounts | None) -> Rows:
    """Return how many logits differ by how much: from and to as powers of ten, and in a bin of its own those equal."""
    if not found:
        return []
    edges = found["log10_edges"]
    bins = zip(edges, edges[1:], found["negative"], found["positive"], strict=False)
    equal = {"log10_from": None, "log10_to": None, "negative": found["zero"], "positive": found["zero"]}
    return [equal] + [dict(zip(equal, counts, strict=True)) for counts in bins]


def _read_pcie(outcome: Outcome) -> Iterable[tuple[str, Rows]]:
    found = pcie.read(outcome.measurements)
    yield "windows", _windows(found.get("windows"))
    if link := found.get("link"):
        ceilings = [*(link.get("ceilings") or ()), link.get("ceiling_after"), *(link.get("sweep") or ())]
        yield "copies", [copy for ceiling in ceilings if ceiling for copy in _copies(ceiling)]
    if health := found.get("health"):
        yield "health", [_joined(second) for second in health["seconds"]]
    if zoom := found.get("zoom"):
        yield "timeline", zoom.get("timeline") or ()


def _windows(found: Windows | None) -> Rows:
    """Return what was received and sent in each window, by the second at which it starts; None is lost evidence."""
    if not found:
        return []
    received, sent = found["rx_mb_per_s"], found["tx_mb_per_s"]
    pairs = itertools.zip_longest(received, sent)
    return [
        {"start_s": round(number * found["window_s"], 6), "rx_mb_per_s": rx, "tx_mb_per_s": tx}
        for number, (rx, tx) in enumerate(pairs)
    ]


def _copies(ceiling: CeilingRow) -> Rows:
    """Return each timed copy of a measurement of the link's ceiling."""
    return [
        {
            "kind": ceiling["kind"],
            "direction": ceiling["direction"],
            "pinned": ceiling["pinned"],
            "nbytes": ceiling["nbytes"],
            "copy_s": seconds,
        }
        for seconds in ceiling["samples_s"]
    ]


def _read_agents(outcome: Outcome) -> Iterable[tuple[str, Rows]]:
    timings = agents.read_timings(outcome.timings)
    yield "turns", [_turn(number, turn) for number, turn in enumerate(_turns(outcome), 1)]
    yield "phases", timings.get("phases") or ()
    yield "sleeps", [dict(flatten(sleep)) for sleep in timings.get("sleeps") or ()]
    yield "memory", _pairs(timings.get("memory"))
    if crowd := timings.get("crowd"):
        yield "wakes", crowd.get("wakes") or ()
        yield "crowd_turns", _crowd_turns(crowd)
        yield "crowd_memory", _pairs(crowd.get("memory"))
        yield "crowd_states", [{"at_s": at, **states} for at, states in crowd.get("states") or ()]


def _turns(outcome: Outcome) -> Sequence[TurnRow]:
    return agents.read(outcome.measurements).get("turns") or ()


def _turn(number: int, turn: TurnRow) -> dict[str, Any]:
    """Return a turn with what the sleeper and its twins said, and how likely that was."""
    return {
        "turn": number,
        "prompt_tokens": turn["prompt_tokens"],
        "nll_slept_nats": turn["nll_slept"],
        "nll_hot_nats": turn["nll_hot"],
        "slept": turn["slept"]["text"],
        "hot": turn["hot"]["text"],
        "cold": turn["cold"]["text"] if turn["cold"] else None,
    }


def _crowd_turns(crowd: CrowdTimes) -> Rows:
    turns, apart = crowd.get("turns") or (), crowd.get("apart_nats")
    names = ("agent", "sent_s", "first_token_s", "end_s")
    rows: list[dict[str, Any]] = [dict(zip(names, turn, strict=True)) for turn in turns]
    return (
        [row | {"apart_nats": nats} for row, nats in zip(rows, apart, strict=True)]
        if apart and len(apart) == len(rows)
        else rows
    )


def _read_host(outcome: Outcome) -> Iterable[tuple[str, Rows]]:
    found = host.read(outcome.measurements)
    links = found.get("links") or ()
    yield "links", [dict(flatten(_joined({**link, "rounds": "", "latencies": ""}))) for link in links]
    yield (
        "rounds",
        [
            {"uuid": link["uuid"], "direction": way, "round": number, "bytes_per_s": rate}
            for link in links
            for way, rates in link["rounds"].items()
            for number, rate in enumerate(rates, 1)
        ],
    )
    yield "stages", [dict(flatten(stage)) for stage in found.get("stages") or ()]
    if traces := found.get("traces"):
        received, sent = traces["rx_mb_per_s"], traces["tx_mb_per_s"]
        yield (
            "traffic",
            [
                {"uuid": uuid, "start_s": round(number * traces["window_s"], 6), "rx_mb_per_s": rx, "tx_mb_per_s": tx}
                for uuid in received
                for number, (rx, tx) in enumerate(zip(received[uuid], sent[uuid], strict=True))
            ],
        )


def _read_faults(outcome: Outcome) -> Iterable[tuple[str, Rows]]:
    found = faults.read(outcome.measurements)
    planted = found.get("faults") or ()
    yield "faults", [_joined(row, without="doses") for row in planted]
    yield "doses", [{"name": row["name"], **_joined(dose)} for row in planted for dose in row.get("doses") or ()]
    yield "clean", [_joined(row) for row in (found.get("clean") or {}).values()]


def _joined(row: Mapping[str, Any], without: str = "") -> dict[str, Any]:
    """Return a row with each list of names as one text."""
    return {
        name: " ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in row.items()
        if name != without
    }


def _pairs(found: Sequence[Sequence[float]] | None) -> Rows:
    return [{"at_s": at, "used_bytes": used} for at, used in found or ()]


_READERS: dict[str, Callable[[Outcome], Iterable[tuple[str, Rows]]]] = {
    "logits": _read_logits,
    "pcie": _read_pcie,
    "agents": _read_agents,
    "faults": _read_faults,
    "host": _read_host,
}
