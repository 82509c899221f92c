"""How long a forward takes under a residency plan, predicted from measured copy and compute times.

The machine in small: one link that copies one segment after the other, one computation that takes the
points in order, and the two rules of the ring. A copy waits until the bytes that it overwrites have been used,
a point waits for its copy. What lies between two forwards (sampling, the host) is one measured gap.
"""

from __future__ import annotations

from dataclasses import dataclass

from djinn_checks.engine.residency import Plan, plan_residency
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

    def copy_s(self, nbytes: int) -> float:
        return self.copy_latency_s + nbytes / self.copy_bytes_per_s


def plan_for_pace(cut: Cut, capacity_bytes: int, pace: Pace) -> Plan:
    """Return the plan whose forward is predicted to be the fastest.

    The more stays resident, the fewer bytes move; the deeper the ring, the less do copies and computation wait
    for each other. Where one of the two takes far longer, two slots do and as much as fits stays. Where both
    take about as long, or an odd number of copies meets two slots, a block less and a slot more is faster,
    by up to a seventh in simulation.

    Raises:
        CapacityError: as `plan_residency`.
    """
    fullest = plan_residency(cut, capacity_bytes)
    resident = sum(cut.segments[index].is_block for index in fullest.resident)
    counts = range(resident - 1, max(-1, resident - 1 - _FEWER), -1)
    others = [plan_residency(cut, capacity_bytes, resident_blocks=count) for count in counts]
    fastest = min([fullest, *others], key=lambda plan: predict_seconds_per_pass(plan, cut, pace))
    bar = (1 - _WORTH) * predict_seconds_per_pass(fullest, cut, pace)
    return fastest if predict_seconds_per_pass(fastest, cut, pace) < bar else fullest


def predict_seconds_per_pass(plan: Plan, cut: Cut, pace: Pace) -> float:
    """Return the seconds from one forward to the next once the cycle has settled."""
    loads, load_of_point = plan.loads if len(plan.loads) > 1 else (), dict(plan.uses)
    used: list[float] = []  # when the bytes of each copy since the start were free again
    copied = now = 0.0  # when the link was done, when the computation was done
    starts = []
    for cycle in range(_CYCLES):
        starts.append(now)
        for point, compute_s in enumerate(pace.compute_s):
            number = cycle * len(loads) + load_of_point[point] if loads and point in load_of_point else None
            while number is not None and len(used) <= number:
                load = loads[len(used) % len(loads)]
                blocker = len(used) - load.blocker_distance
                copied = max(copied, used[blocker] if blocker >= 0 else 0.0) + pace.copy_s(load.nbytes)
                used.append(copied)  # until its point has run: nothing is free before it has arrived
            now = max(now, used[number]) + compute_s if number is not None else now + compute_s
            if number is not None:
                used[number] = now
        now += pace.gap_s
    return (starts[-1] - starts[1]) / (_CYCLES - 2)
