"""Which job may start on which host: free GPUs, one job at a time that computes on the CPU, and links left alone.

A host is a node of the cluster. Several may share a machine, as containers do, and with it its links.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from djinn_checks.suite.cluster.needs import Needs


@dataclass(frozen=True, kw_only=True)
class Host:
    """A node of the cluster that jobs may run on."""

    number: int
    """From 1; what it is called where no address may stand."""
    node: str
    """The cluster's own name for it."""
    address: str
    gpus: int
    machine: str
    """The same for all nodes of one machine, until that starts anew."""

    @property
    def name(self) -> str:
        """What it is called in outcomes, which hold no address."""
        return f"host {self.number}"


class Placement:
    """Knows what runs where."""

    def __init__(self, hosts: Sequence[Host], needs: Mapping[str, Needs]) -> None:
        """Begin with nothing running.

        Args:
            hosts: all that may be used.
            needs: of each job, by its name.
        """
        self._hosts = list(hosts)
        self._needs = needs
        self._running: dict[str, Host] = {}

    def choose(self, waiting: Sequence[str]) -> tuple[str, Host] | None:
        """Return the first job that may start, and the emptiest host for it; None if all have to wait."""
        for job in waiting:
            free = [host for host in self._hosts if self._may_start(self._needs[job], host)]
            if free:
                return job, min(free, key=lambda host: self._rank(self._needs[job], host))
        return None

    def take(self, job: str, host: Host) -> None:
        """Take that a job runs there."""
        self._running[job] = host

    def end(self, job: str) -> None:
        """Take that a job runs no more."""
        del self._running[job]

    def lose(self, host: Host) -> None:
        """Take that a host is gone."""
        self._hosts = [other for other in self._hosts if other is not host]

    def is_lost(self, job: str) -> bool:
        """Tell whether no host is left on which this job could ever start."""
        return not any(self._has(self._needs[job], host) for host in self._hosts)

    def _may_start(self, needs: Needs, host: Host) -> bool:
        beside = [job for job, other in self._running.items() if other.machine == host.machine]
        if any(self._needs[job].alone for job in beside) or (needs.alone and beside):
            return False
        here = [job for job in beside if self._running[job] is host]
        if needs.gpus == 0:
            return not any(self._needs[job].gpus == 0 for job in here)
        taken = sum(self._take_of(self._needs[job], host) for job in here)
        return self._has(needs, host) and host.gpus - taken >= self._take_of(needs, host)

    def _rank(self, needs: Needs, host: Host) -> tuple[int, bool, int]:
        busy = sum(other is host for other in self._running.values())
        return busy, needs.gpus == 0 and host.gpus > 0, host.number

    @staticmethod
    def _take_of(needs: Needs, host: Host) -> int:
        return host.gpus if needs.gpus is None else needs.gpus

    @staticmethod
    def _has(needs: Needs, host: Host) -> bool:
        return host.gpus >= (1 if needs.gpus is None else needs.gpus)
