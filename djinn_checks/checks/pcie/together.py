"""The PCIe check on several GPUs at once: one process for each, one that reads all counters, one instant to begin.

Each GPU's link is calibrated alone, one after the other. Then all open their systems, which pins their memory, and
every one decodes alone for a while; at a common instant all decode, and what is judged begins. Two ceilings are kept
apart: of a link alone, and of all links at once, which is what they can have while all stream. Each GPU is judged
against the latter by the rows of the check for one, and the share of alone is told beside it.

No system runs in the process that judges.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from djinn_checks.checks.fleet import Fleet
from djinn_checks.checks.fleet_criteria import tell_lost
from djinn_checks.checks.pcie.decode_run import DecodeRun, SeenWeights
from djinn_checks.checks.pcie.evidence import HOST_MEMORY, PCIE, LinkFacts, PcieEvidence
from djinn_checks.checks.settle import Progress
from djinn_checks.errors import InstrumentError, ParamsError, SystemUnavailableError
from djinn_checks.instruments.calibration import LATE_S, TRIES, Calibration, calibrate_by_spans, is_counted
from djinn_checks.instruments.ceiling import Ceiling
from djinn_checks.instruments.counters import CounterSeries
from djinn_checks.instruments.entropy_floor import EntropyFloor
from djinn_checks.instruments.gpus import choose_gpus, find_gpus
from djinn_checks.instruments.many_counters import ManyCounters
from djinn_checks.params import PcieParams

_OPENER = "djinn_checks.checks.pcie.stream_worker:open_link"
_READY_S, _OPEN_S, _PATIENCE_S = 400.0, 300.0, 60.0
_AHEAD_S = 0.2
_PINNED_S = 3.0
"""Until each has pinned and filled what it measures its ceiling with."""
_ALONE_S = 3.0
"""How long each decodes alone, at the most: for the share that is left of it."""


@dataclass(frozen=True, kw_only=True)
class Streams:
    """What is driven: GPUs by their UUIDs, or systems over links within host memory."""

    names: tuple[str, ...]
    subject: str
    left_out: Mapping[str, str]
    in_use: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class GpuStream:
    """One GPU after the run."""

    uuid: str
    evidence: PcieEvidence
    alone_ceiling: Ceiling
    """Of its link alone; the evidence has that of all at once."""
    alone_s: tuple[float, float] | None
    """When it decoded alone; None if it did not."""

    @property
    def rate(self) -> float | None:
        """Payload received while all decoded, bytes/s; by the system's plan where nothing counts."""
        return self._rate(self.evidence.start_s, self.evidence.end_s, len(self.evidence.run.pass_ends_s)
                          if self.evidence.run else 0)  # fmt: skip

    def rate_alone(self, passes: int) -> float | None:
        """Return payload received while it decoded alone, bytes/s."""
        return None if self.alone_s is None else self._rate(*self.alone_s, passes)

    def _rate(self, start_s: float, end_s: float, passes: int) -> float | None:
        counted = self.evidence.counted_between(start_s, end_s)
        planned = self.evidence.run.predicted_bytes if self.evidence.run else None
        if counted is None and self.evidence.link.subject == HOST_MEMORY and planned is not None:
            counted = float(planned * passes)
        return None if counted is None else counted / (end_s - start_s)


@dataclass(frozen=True, kw_only=True)
class TogetherEvidence:
    """All of them."""

    params: PcieParams
    streams: Streams
    gpus: tuple[GpuStream, ...]
    lost: Mapping[str, str]
    alone_passes: Mapping[str, int]

    @property
    def overlap(self) -> float:
        """The time in which all decoded, as a share of the longest."""
        runs = [gpu.evidence for gpu in self.gpus]
        start, end = max(run.start_s for run in runs), min(run.end_s for run in runs)
        return max(0.0, end - start) / max(run.duration_s for run in runs)


def find_streams(params: PcieParams) -> Streams:
    """Return which GPUs are driven, as `gpus` asks; systems over host memory where there is none.

    Raises:
        ParamsError: a GPU is named that is not there or cannot be driven.
        SystemUnavailableError: GPUs were asked for by name of the device, and there is none.
    """
    if ":" in params.device:
        raise ParamsError(f"device: {params.device} counts GPUs in an order of its own; give their UUIDs by `gpus`")
    found = find_gpus() if params.device != "cpu" else None
    if found is None or not found.gpus:
        if params.device == "cuda" or params.gpus != "all":
            raise SystemUnavailableError("GPUs were asked for, and there is none on this machine; use device: auto")
        names = tuple(f"stand-in-{number}" for number in range(params.stand_ins))
        return Streams(names=names, subject=HOST_MEMORY, left_out={}, in_use={})
    driven, left_out = choose_gpus(found, params.gpus)
    if not driven:
        raise SystemUnavailableError("; ".join(f"{uuid}: {why}" for uuid, why in left_out.items()))
    return Streams(
        names=tuple(gpu.uuid for gpu in driven),
        subject=PCIE,
        left_out=left_out,
        in_use={gpu.uuid: gpu.in_use for gpu in driven if gpu.in_use},
    )


def stream_together(params: PcieParams, streams: Streams, progress: Progress) -> TogetherEvidence:
    """Have every GPU decode, and return what was seen of each.

    Raises:
        InstrumentError: no process came to its end.
    """
    if streams.subject == HOST_MEMORY:
        with Fleet() as fleet:
            return _Run(params, streams, fleet, None, progress).run()
    with ManyCounters(streams.names, hz=params.sampler_hz, counters=params.counters) as counters, Fleet() as fleet:
        return _Run(params, streams, fleet, counters, progress).run()


class _Run:
    """The stages of one run."""

    def __init__(
        self, params: PcieParams, streams: Streams, fleet: Fleet, counters: ManyCounters | None, progress: Progress
    ) -> None:
        self._params, self._streams, self._fleet = params, streams, fleet
        self._counters, self._progress = counters, progress

    def run(self) -> TogetherEvidence:
        """Go through all stages."""
        fleet, names = self._fleet, self._streams.names
        self._progress("processes", 0, 1)
        own = self._params.model_dump() | {"gpus": "", "stand_ins": 2, "outcome": "", "sweep": False}
        for name in names:
            gpu = self._streams.subject == PCIE
            variables = {"CUDA_VISIBLE_DEVICES": name} if gpu else {}
            fleet.add(
                name, _OPENER, {"params": {**own, "device": "auto"}, "device": "cuda" if gpu else "cpu"}, variables
            )
        fleet.gather(_READY_S)
        self._progress("links", 0, 1)
        known = {name: self._known(number, name) for number, name in enumerate(names)} if self._counters else {}
        alone = {name: self._ceilings(name) for name in names}
        before = self._all_at_once()
        self._progress("open", 0, 1)
        told: dict[str, dict[str, Any]] = {name: {"do": "decode"} for name in fleet.names}
        fleet.run(told, _OPEN_S, "opening its system")
        decoded = {name: self._decode_alone(name) for name in fleet.names}
        self._progress("decode", 0, 1)
        at_s = time.monotonic() + _AHEAD_S
        limit = self._params.duration_s * 2 + _PATIENCE_S
        fleet.run({name: {"at_s": at_s} for name in fleet.names}, limit, "decoding")
        if self._counters:
            self._counters.await_readings(LATE_S)
        runs = fleet.run({name: {"do": "release"} for name in fleet.names}, _PATIENCE_S, "releasing its system")
        after = self._all_at_once()
        time.sleep(0.05)
        gpus = [
            self._gpu(number, name, known.get(name), alone[name], before[name], after[name], decoded[name],
                      runs[name]["found"])
            for number, name in enumerate(names)
            if name in runs and name in after
        ]  # fmt: skip
        if not gpus:
            raise InstrumentError(f"no process came to its end: {tell_lost(fleet.lost)}")
        return TogetherEvidence(
            params=self._params,
            streams=self._streams,
            gpus=tuple(gpus),
            lost=dict(fleet.lost),
            alone_passes={name: decoded[name]["passes"] for name in decoded if decoded[name]},
        )

    def _one(self, name: str, do: str, **values: Any) -> Any:
        done = self._fleet.run({name: {"do": do, **values}}, _PATIENCE_S, do)
        return done[name]["found"] if name in done else None

    def _known(self, number: int, name: str) -> dict[str, Any] | None:
        """Have a GPU copy known bytes, again where a hole lies in the readings of that time."""
        found = None
        for _ in range(TRIES):
            found = self._one(name, "copy_known")
            if found is None or self._counters is None:
                break
            self._counters.await_readings(LATE_S)
            series = self._counters.read()[number]
            if series is None or is_counted(series, found["idle"], found["spans"]):
                break
        return found

    def _ceilings(self, name: str) -> tuple[Ceiling, ...]:
        ways = ("h2d", "d2h", "both") if self._counters else ("h2d",)
        found = [self._one(name, "measure_ceiling", direction=way) for way in ways]
        return tuple(_read_ceiling(ceiling) for ceiling in found if ceiling)

    def _all_at_once(self) -> dict[str, Ceiling]:
        """Return the ceiling of each link while all copy: of the median round, as in the fastest another may rest."""
        at_s = time.monotonic() + (_PINNED_S if self._counters else _AHEAD_S)
        command = {"do": "measure_ceiling", "direction": "h2d", "at_s": at_s}
        done = self._fleet.run(dict.fromkeys(self._fleet.names, command), _PATIENCE_S, "the ceiling of all at once")
        ceilings = {name: _read_ceiling(answer["found"]) for name, answer in done.items()}
        return {
            name: replace(found, bytes_per_s=found.nbytes / statistics.median(found.samples_s))
            for name, found in ceilings.items()
        }

    def _decode_alone(self, name: str) -> dict[str, Any]:
        command = {"alone_for_s": min(_ALONE_S, self._params.duration_s)}
        done = self._fleet.run({name: command}, _PATIENCE_S, "decoding alone")
        return dict(done[name]["found"]) if name in done else {}

    def _gpu(
        self,
        number: int,
        name: str,
        known: dict[str, Any] | None,
        alone: tuple[Ceiling, ...],
        before: Ceiling,
        after: Ceiling,
        decoded: dict[str, Any],
        run: dict[str, Any],
    ) -> GpuStream:
        series = self._counters.read()[number] if self._counters else None
        health = self._counters.read_health()[number] if self._counters else None
        calibration, reasons = _calibrate(series, known)
        if self._counters is None:
            reasons = ["this machine has no PCIe GPU, so there are no counters to read"]
        elif series is None:
            reasons = [self._counters.reasons[number]]
        link = LinkFacts(
            subject=self._streams.subject,
            ceiling_bytes_per_s=max(before.bytes_per_s, after.bytes_per_s),
            back_bytes_per_s=next((each.bytes_per_s for each in alone if each.direction == "d2h"), None),
            ceilings=(before, *alone),
            ceiling_after=after,
            calibration=calibration,
            health=health,
            reasons=tuple(reasons),
        )
        ready, decode = self._fleet.ready[name], _read_run(run)
        evidence = PcieEvidence(
            params=self._params,
            link=link,
            series=link.fit(series) if series is not None else None,
            start_s=decode.start_s,
            end_s=decode.end_s,
            claimed_bytes=decode.claimed_bytes,
            run=decode,
            weight_bytes=ready["weight_bytes"],
            unrouted_bytes=ready["unrouted_bytes"],
            budget_bytes=ready["budget_bytes"],
            encodes=ready["encodes"],
            floor=EntropyFloor(**ready["floor"]) if ready["floor"] else None,
        )
        span = (decoded["start_s"], decoded["end_s"]) if decoded else None
        return GpuStream(uuid=name, evidence=evidence, alone_ceiling=alone[0] if alone else before, alone_s=span)


def _calibrate(series: CounterSeries | None, known: dict[str, Any] | None) -> tuple[Calibration | None, list[str]]:
    if series is None or known is None:
        return None, []
    idle, spans = known["idle"], [(start, end) for start, end in known["spans"]]
    try:
        return calibrate_by_spans(series, (idle[0], idle[1]), spans, known["payload_bytes"]), []
    except InstrumentError as error:
        return None, [str(error)]


def _read_ceiling(plain: dict[str, Any]) -> Ceiling:
    return Ceiling(**{**plain, "samples_s": tuple(plain["samples_s"])})


def _read_run(plain: dict[str, Any]) -> DecodeRun:
    seen = plain["seen"]
    return DecodeRun(
        **{
            **plain,
            "pass_ends_s": tuple(plain["pass_ends_s"]),
            "timeline": tuple(plain["timeline"]),
            "seen": SeenWeights(**{**seen, "missing": tuple(seen["missing"])}) if seen else None,
        }
    )
