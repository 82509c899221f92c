"""What a job asks of the host that it runs on: GPUs, and whether it has to be alone with the host's links.

Neighbours change a ceiling: of two GPUs that copy at once each reaches 0.90 of what it reaches alone, 0.70 with both
directions. So whatever measures a link waits until nothing else of ours runs on that machine, and nothing starts
beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from djinn_checks.errors import RunnerError
from djinn_checks.suite.execution import Job

_LINKS = {"pcie", "host"}
"""Checks that measure a link, on a CPU the one within host memory."""
_LINKS_OF_GPUS = {"agents"}
"""Checks that measure one where there is a GPU."""
_RECORDED = ("trace", "recording")
"""Parameters that name something recorded, which is judged in place of a run."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What one job asks for."""

    gpus: int | None
    """How many; None: all of a host."""
    alone: bool
    """Whether nothing else may run on its machine meanwhile."""


def find_needs(job: Job, *, most_gpus: int) -> Needs:
    """Return what a job asks for.

    Args:
        job: validated.
        most_gpus: of any host of the cluster; where there are none, `device: auto` is a CPU.

    Raises:
        RunnerError: it asks for what no host has, or what only one machine could mean.
    """
    values = job.resolved
    if any(values.get(name) for name in _RECORDED):
        return Needs(gpus=0, alone=False)
    gpus = _count_gpus(job, most_gpus)
    links = _LINKS | (_LINKS_OF_GPUS if gpus != 0 else set())
    checks = set(values.get("of") or [*_LINKS, *_LINKS_OF_GPUS]) if job.check == "faults" else {job.check}
    return Needs(gpus=gpus, alone=bool(checks & links))


def find_all_needs(jobs: Sequence[Job], *, most_gpus: int) -> dict[str, Needs]:
    """Return what each job asks for, by its name; see `find_needs`."""
    return {job.name: find_needs(job, most_gpus=most_gpus) for job in jobs}


def _count_gpus(job: Job, most_gpus: int) -> int | None:
    device, named = str(job.resolved.get("device", "auto")), job.resolved.get("gpus") or ""
    if device == "cpu":
        return 0
    if device.partition(":")[2] not in ("", "0"):
        raise RunnerError(
            f"{job.name}: device: {device} counts the GPUs of one machine, and on a cluster each job sees those that "
            "it was given alone; write cuda or auto"
        )
    if not isinstance(named, str):
        raise RunnerError(
            f"{job.name}: gpus names GPUs of one host by their UUIDs; on a cluster write all, or leave it out"
        )
    if most_gpus == 0:
        if device.startswith("cuda"):
            raise RunnerError(f"{job.name}: device: {device} asks for a GPU, and Ray knows of none on any host")
        return 0
    return None if named == "all" else 1
