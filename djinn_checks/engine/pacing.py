"""How long a forward takes under a residency plan, predicted from measured copy and compute times.

The machine in small: one link that copies one segment after the other, one computation that takes the
points in order, and the two rules of the ring. A copy waits until the bytes that it overwrites have been used,
a point waits for its copy. Where segments travel encoded, what uses a copy is its decode, which the computation does
first. What lies between two forwards (sampling, the host) is one measured gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from djinn_checks.engine.plan import Plan
from djinn_checks.engine.residency import plan_residency, plans_with_encoded_blocks
from djinn_checks.engine.segments import Cut

_CYCLES = 6
_FEWER = 4
"""How many resident blocks less than fit are tried: each makes room for one more slot to run ahead."""
_WORTH = 0.01
"""A plan is left for another one only if that is faster by this share: the times are measured, and noisy."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Measured times of one model on one machine, in seconds."""

    copy_latency_s: float
    """Fixed cost of a copy."""
    copy_bytes_per_s: float
    compute_s: tuple[float, ...]
    """Of each point, up to the start of the next one."""
    gap_s: float
    """From the end of a forward to the start of the next."""
    decode_bytes_per_s: float | None = None
    """Decoded bytes, start of the decode included; None if nothing is decoded."""

    def copy_s(self, nbytes: int) -> float:
        return self.copy_latency_s + nbytes / self.copy_bytes_per_s

    def decode_s(self, nbytes: int) -> float:
        return nbytes / self.decode_bytes_per_s if self.decode_bytes_per_s else 0.0


def plan_for_pace(cut: Cut, capacity_bytes: int, pace: Pace, *, wire_bytes: Sequence[int] | None = None) -> Plan:
    """Return the plan whose forward is predicted to be the fastest.

    The more stays resident, the fewer bytes move; the deeper the ring, the less do copies and computation wait
    for each other. Where one of the two takes far longer, two slots do and as much as fits stays. Where both
    take about as long, or an odd number of copies meets two slots, a block less and a slot more is faster,
    by up to a seventh in simulation. A block that stays encoded leaves room for another half and costs a decode in
    every pass.

    Args:
        wire_bytes: as for `plan_residency`.

    Raises:
        CapacityError: as `plan_residency`.
    """
    candidates = plans_with_encoded_blocks(cut, capacity_bytes, wire_bytes)
    fullest = min(candidates, key=lambda plan: predict_seconds_per_pass(plan, cut, pace))
    encoded = len(fullest.stays_encoded)
    resident = sum(cut.segments[index].is_block for index in fullest.resident)
    counts = range(resident - 1, max(-1, resident - 1 - _FEWER), -1)
    others = [
        plan_residency(cut, capacity_bytes, resident_blocks=count, wire_bytes=wire_bytes, encoded_blocks=encoded)
        for count in counts
    ]
    fastest = min([fullest, *others], key=lambda plan: predict_seconds_per_pass(plan, cut, pace))
    bar = (1 - _WORTH) * predict_seconds_per_pass(fullest, cut, pace)
    return fastest if predict_seconds_per_pass(fastest, cut, pace) < bar else fullest


def predict_seconds_per_pass(plan: Plan, cut: Cut, pace: Pace) -> float:
    """Return the seconds from one forward to the next once the cycle has settled."""
    loads, load_of_point = plan.loads if len(plan.loads) > 1 else (), dict(plan.uses)
    belt = _Belt(plan, pace)
    now = 0.0  # when the computation was done
    starts = []
    for cycle in range(_CYCLES):
        starts.append(now)
        for point, compute_s in enumerate(pace.compute_s):
            number = cycle * len(loads) + load_of_point[point] if loads and point in load_of_point else None
            if number is not None:
                now = belt.decode(number, now)
            now += compute_s
            if number is not None:
                belt.used[number] = now
        now += pace.gap_s
    return (starts[-1] - starts[1]) / (_CYCLES - 2)


class _Belt:
    """The link; all times since the start, by number of load.

    Attributes:
        used: when the bytes of each load were free again; until its point has run, when they arrived.
    """

    def __init__(self, plan: Plan, pace: Pace) -> None:
        self._plan, self._pace = plan, pace
        self.used: list[float] = []
        self._landed: list[float] = []
        self._decoded: list[float] = []
        self._copied = 0.0

    def decode(self, number: int, now: float) -> float:
        """Return when a load is in its place, decoded if it travels encoded. All loads before it have been used."""
        if not self._plan.landings:
            while len(self.used) <= number:
                self.used.append(self._copy_straight())
            return max(now, self.used[number])
        if number < len(self._decoded):  # for its first use
            return max(now, self._decoded[number])
        while len(self._landed) <= number:
            self._landed.append(self._copy_encoded())
        nbytes = self._plan.loads[number % len(self._plan.loads)].nbytes
        self._decoded.append(max(now, self._landed[number]) + self._pace.decode_s(nbytes))
        self.used.append(self._decoded[-1])
        return self._decoded[-1]

    def _copy_straight(self) -> float:
        number, plan = len(self.used), self._plan
        load = plan.loads[number % len(plan.loads)]
        place_free = _at(self.used, number - load.blocker_distance)
        self._copied = max(self._copied, place_free) + self._pace.copy_s(load.nbytes)
        return self._copied

    def _copy_encoded(self) -> float:
        number, plan = len(self._landed), self._plan
        landing = plan.landings[number % len(plan.loads)]
        if landing is None:
            return 0.0
        landing_free = _at(self._decoded, number - landing.blocker_distance)
        self._copied = max(self._copied, landing_free) + self._pace.copy_s(landing.nbytes)
        return self._copied


def _at(times: Sequence[float], number: int) -> float:
    return times[number] if number >= 0 else 0.0
