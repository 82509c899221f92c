"""A run of the host check written down whole, and judged again elsewhere: links, stages and readings.

A gzipped JSON of plain values. Readings are written as steps, microseconds and bytes modulo 2^32: they compress.
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from djinn_checks.bounded import read_gzip_text
from djinn_checks.checks.host.driver import Latency, Part
from djinn_checks.checks.host.evidence import Copies, HostEvidence, PeerCopies, Seen, Stage
from djinn_checks.checks.host.plan import REPLAY, HostPlan, LinkPlan
from djinn_checks.errors import InstrumentError, ParamsError
from djinn_checks.instruments.counters import WRAP, CounterSeries, build_series
from djinn_checks.instruments.gpus import Pair
from djinn_checks.instruments.link_health import HealthSample, LinkHealth
from djinn_checks.instruments.topology import PciPath, Port
from djinn_checks.params import HostParams

SCHEMA = "djinn-checks/host-recording/1"
_MOST_BYTES = 2**29
_US = 1e6


def save_recording(evidence: HostEvidence, path: Path) -> None:
    """Write a run down."""
    plan = evidence.plan
    plain = {
        "schema": SCHEMA,
        "subject": evidence.subject,
        "idle_s": list(evidence.idle_s),
        "end_s": evidence.end_s,
        "nodes": list(plan.nodes),
        "left_out": dict(plan.left_out),
        "pairs": [dataclasses.asdict(pair) for pair in plan.pairs],
        "links": [_write_link(link) for link in evidence.seen],
        "stages": [dataclasses.asdict(stage) for stage in evidence.stages],
        "peers": [dataclasses.asdict(copies) for copies in evidence.peers],
        "peers_missing": evidence.peers_missing,
    }
    with gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump(plain, file, separators=(",", ":"))


def _write_link(link: Seen) -> dict[str, Any]:
    plan = link.plan
    named = ("uuid", "name", "subject", "max_generation", "max_width", "numa_node", "nvlinks")
    return {
        **{name: getattr(plan, name) for name in named},
        "path": dataclasses.asdict(plan.path) if plan.path else None,
        "near_node": link.near_node,
        "far_node": link.far_node,
        "bound": link.bound,
        "verified": link.verified,
        "lost": link.lost,
        "why_not_counted": link.why_not_counted,
        "latencies": [dataclasses.asdict(seen) for seen in link.latencies],
        "health": [dataclasses.asdict(sample) for sample in link.health.samples] if link.health else None,
        "readings": _write_readings(link.series) if link.series else None,
    }


def _write_readings(series: CounterSeries) -> dict[str, Any]:
    raw = series.raw
    before = np.round(raw.before_s * _US).astype(np.int64)
    after = np.maximum(np.round(raw.after_s * _US).astype(np.int64), before)
    return {
        "source": series.source,
        "wraps": series.wraps,
        "before_us": _steps(before),
        "query_us": (after - before).tolist(),
        "rx": _steps(raw.rx, WRAP if series.wraps else None),
        "tx": _steps(raw.tx, WRAP if series.wraps else None),
    }


def _steps(values: Any, modulus: int | None = None) -> list[int]:
    steps = np.diff(values, prepend=0)
    return [int(step) for step in (steps % modulus if modulus else steps)]


def load_recording(params: HostParams) -> HostEvidence:
    """Return the evidence of the recorded run `params.recording`.

    Raises:
        ParamsError: the file is missing, or is no such recording.
    """
    path = Path(params.recording)
    try:
        plain = json.loads(read_gzip_text(path, _MOST_BYTES))
        if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA!r}")
        return _read(params, plain)
    except InstrumentError as error:
        raise ParamsError(f"recording: {path}: {error}") from error
    except (OSError, EOFError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ParamsError(
            f"recording: {path} cannot be read as a recorded host ({type(error).__name__}: {error})"
        ) from error


def _read(params: HostParams, plain: dict[str, Any]) -> HostEvidence:
    seen = tuple(_read_link(link) for link in plain["links"])
    start, end = (float(value) for value in plain["idle_s"])
    return HostEvidence(
        params=params,
        subject=REPLAY if plain["subject"] == "pcie" else str(plain["subject"]),
        plan=HostPlan(
            subject=str(plain["subject"]),
            links=tuple(link.plan for link in seen),
            nodes=tuple(int(node) for node in plain["nodes"]),
            pairs=tuple(Pair(**pair) for pair in plain["pairs"]),
            left_out={str(uuid): str(why) for uuid, why in plain["left_out"].items()},
        ),
        seen=seen,
        stages=tuple(_read_stage(stage) for stage in plain["stages"]),
        idle_s=(start, end),
        end_s=float(plain["end_s"]),
        peers=tuple(PeerCopies(**copies) for copies in plain["peers"]),
        peers_missing=str(plain["peers_missing"]),
    )


def _read_stage(plain: dict[str, Any]) -> Stage:
    copies = {
        uuid: Copies(parts=tuple(Part(**part) for part in its["parts"]), began_s=its["began_s"], ended_s=its["ended_s"])
        for uuid, its in plain["copies"].items()
    }
    return Stage(**{**plain, "copies": copies})


def _read_link(plain: dict[str, Any]) -> Seen:
    path = plain["path"]
    ports = tuple(Port(**port) for port in path["ports"]) if path else ()
    plan = LinkPlan(
        uuid=str(plain["uuid"]),
        name=str(plain["name"]),
        subject=str(plain["subject"]),
        source="",
        opener="",
        max_generation=plain["max_generation"],
        max_width=plain["max_width"],
        numa_node=plain["numa_node"],
        nvlinks=plain["nvlinks"],
        path=PciPath(**{**path, "ports": ports}) if path else None,
    )
    health = plain["health"]
    return Seen(
        plan=plan,
        series=_read_readings(plain["readings"]) if plain["readings"] else None,
        health=LinkHealth(tuple(HealthSample(**sample) for sample in health)) if health else None,
        why_not_counted=plain["why_not_counted"],
        near_node=plain["near_node"],
        far_node=plain["far_node"],
        bound=bool(plain["bound"]),
        verified=plain["verified"],
        lost=str(plain["lost"]),
        latencies=tuple(Latency(**found) for found in plain["latencies"]),
    )


def _read_readings(plain: dict[str, Any]) -> CounterSeries:
    before = np.array(list(itertools.accumulate(plain["before_us"])), dtype=np.float64) / _US
    after = before + np.array(plain["query_us"], dtype=np.float64) / _US
    rx, tx = (np.array(list(itertools.accumulate(plain[way])), dtype=np.int64) for way in ("rx", "tx"))
    wraps = bool(plain["wraps"])
    if wraps:
        rx, tx = rx % WRAP, tx % WRAP
    return build_series(before, after, rx, tx, source=str(plain["source"]), wraps=wraps)
