"""The stages of a run: each link alone, all at once, near and far memory, small copies, GPU to GPU.

All processes have pinned their memory before the first stage begins, and rest in between. A stage is entered by a
common instant, a little ahead, that every process waits for by the same clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from djinn_checks.checks.fleet import Fleet
from djinn_checks.checks.host.driver import BOTH, D2H, FAR, H2D, NEAR, Latency, Part
from djinn_checks.checks.host.evidence import ALONE, TOGETHER, Copies, PeerCopies, Stage
from djinn_checks.checks.host.plan import HostPlan
from djinn_checks.checks.settle import Progress
from djinn_checks.instruments.many_counters import ManyCounters
from djinn_checks.params import HostParams

PEERS = "peers"
"""The name of the process that copies from GPU to GPU."""
_AHEAD_S = 0.06
_QUIET_S = 0.03
"""Left before and after a stage, so that a reading of the counters lies on either side."""
_READ_S = 0.5
"""How long the reading behind a stage is waited for, on a machine that has something else to do."""
_PATIENCE_S = 30.0
"""How much longer than it should a stage may take, before a process counts as hanging."""
_LATENCY_S, _PEER_S = 0.15, 0.3


class Runner:
    """Has a fleet go through the stages, and keeps what came of it."""

    def __init__(
        self, fleet: Fleet, counters: ManyCounters, plan: HostPlan, params: HostParams, progress: Progress
    ) -> None:
        """Have nothing run yet."""
        self._fleet, self._counters, self._plan, self._params = fleet, counters, plan, params
        self._progress = progress
        self.stages: list[Stage] = []
        self.latencies: dict[str, list[Latency]] = {uuid: [] for uuid in plan.uuids}
        self.peers: list[PeerCopies] = []

    def run_all(self) -> None:
        """Go through every stage in every round."""
        todo = list(self._list_stages())
        for number, (kind, direction, memory, round_, uuids) in enumerate(todo):
            self._progress(f"{kind} {direction}", number, len(todo))
            stage = self._run_stage(kind, direction, memory, round_, uuids)
            if stage is not None:
                self.stages.append(stage)
        for uuid in self._plan.uuids:
            for direction in (H2D, D2H):
                self._measure_latency(uuid, direction)
        if PEERS in self._fleet.names:
            for one in self._plan.uuids:
                for other in self._plan.uuids:
                    if one != other:
                        self._copy_between(one, other)

    def verify(self) -> dict[str, bool]:
        """Return whether the bytes arrived, for each process that is still there."""
        names = self._fleet.names
        done = self._fleet.run({name: {"do": "verify"} for name in names}, _PATIENCE_S, "the comparison of bytes")
        return {name: bool(answer["found"]) for name, answer in done.items()}

    def _list_stages(self) -> Iterator[tuple[str, str, str, int, Sequence[str]]]:
        """Give kind, direction, memory, round and links of each stage; rounds lie apart, so that a drift is seen."""
        every = self._plan.uuids
        far = [link.uuid for link in self._plan.links if link.options.get("far") is not None]
        for round_ in range(self._params.rounds):
            for direction in (H2D, D2H, BOTH):
                for uuid in every:
                    yield ALONE, direction, NEAR, round_, [uuid]
                yield TOGETHER, direction, NEAR, round_, every
            for direction in (H2D, D2H):
                for uuid in far:
                    yield ALONE, direction, FAR, round_, [uuid]

    def _run_stage(self, kind: str, direction: str, memory: str, round_: int, uuids: Sequence[str]) -> Stage | None:
        time.sleep(_QUIET_S)
        start = time.monotonic()
        for_s = self._params.stage_s
        command: dict[str, Any] = {"do": "copy", "direction": direction, "memory": memory, "for_s": for_s}
        at_s = start + _AHEAD_S
        commands = {uuid: {**command, "at_s": at_s} for uuid in uuids}
        done = self._fleet.run(commands, _AHEAD_S + for_s + _PATIENCE_S, f"{kind} {direction}")
        self._rest()
        if not done:
            return None
        return Stage(
            kind=kind,
            direction=direction,
            memory=memory,
            round=round_,
            start_s=start,
            end_s=time.monotonic(),
            copies={uuid: _read_copies(answer) for uuid, answer in done.items()},
        )

    def _rest(self) -> None:
        """Leave all links in peace until each was read: its bytes would be counted with those of the next stage."""
        time.sleep(_QUIET_S)
        self._counters.await_readings(_READ_S)

    def _measure_latency(self, uuid: str, direction: str) -> None:
        command = {"do": "measure_latency", "direction": direction, "for_s": _LATENCY_S}
        done = self._fleet.run({uuid: command}, _LATENCY_S + _PATIENCE_S, "small copies")
        if uuid in done:
            self.latencies[uuid].append(Latency(**done[uuid]["found"]))

    def _copy_between(self, one: str, other: str) -> None:
        time.sleep(_QUIET_S)
        start, uuids = time.monotonic(), self._plan.uuids
        command = {"do": "copy_between", "source": uuids.index(one), "to": uuids.index(other)}
        command |= {"at_s": start + _AHEAD_S, "for_s": _PEER_S}
        done = self._fleet.run({PEERS: command}, _PEER_S + _PATIENCE_S, "copies between GPUs")
        self._rest()
        if PEERS in done:
            (part,) = _read_copies(done[PEERS]).parts
            end = time.monotonic()
            self.peers.append(
                PeerCopies(
                    source=one, to=other, start_s=start, end_s=end, nbytes=part.nbytes, bytes_per_s=part.bytes_per_s
                )
            )


def _read_copies(answer: dict[str, Any]) -> Copies:
    parts = tuple(Part(**part) for part in answer["found"])
    return Copies(parts=parts, began_s=answer["began_s"], ended_s=answer["ended_s"])
