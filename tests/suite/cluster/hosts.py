"""A cluster without Ray: its hosts are here, and what a job leaves there is written down before it runs."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from djinn_checks.errors import LostError, StoppedError
from djinn_checks.outcome import Status
from djinn_checks.suite.cluster.errand import Sight
from djinn_checks.suite.cluster.needs import Needs
from djinn_checks.suite.cluster.placement import Host
from djinn_checks.suite.execution import Job
from djinn_checks.suite.params_folder import read_suite
from tests.suite.runs import write_params
from tests.whole import whole

TINY = "model: random:tiny\ndevice: cpu\n"


def host(number: int, gpus: int = 0, machine: str = "") -> Host:
    return Host(number=number, node=f"node{number}", address="10.0.0.1", gpus=gpus, machine=machine or f"m{number}")


def suite(tmp_path: Path, *names: str) -> list[Job]:
    """Return the jobs of a suite with a params file of each name."""
    for name in names:
        write_params(tmp_path / "suite", TINY, f"{name}.yaml")
    return read_suite(tmp_path / "suite")


def left_by(job: Job, tmp_path: Path, status: Status = Status.PASS, **changes: Any) -> dict[str, bytes]:
    """Return what a job leaves on its host, by name."""
    outcome = whole(job.check, status, **{"params": job.resolved} | changes)
    file = outcome.save(tmp_path / f"{job.name}.made")
    return {
        f"{job.name}.outcome.json": file.read_bytes(),
        f"{job.name}.html": b"<html>page</html>",
        f"{job.name}.log": b"the whole log\n",
        "index.html": b"of that host alone",
    }


@dataclass
class FakeRemote:
    """An errand whose answers are written down."""

    files: Mapping[str, bytes]
    code: int = 0
    said: bytes = b"so far, so good\n"
    on_look: Callable[[], None] = lambda: None
    put: dict[str, bytes] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    is_closed: bool = False

    def call(self, name: str, *arguments: Any) -> Any:
        return getattr(self, f"_{name}")(*arguments)

    def close(self) -> None:
        self.is_closed = True

    def _put(self, name: str, piece: bytes) -> None:
        self.put[name] = self.put.get(name, b"") + piece

    def _start(self, arguments: Sequence[str]) -> None:
        self.arguments = arguments

    def _look(self, start: int) -> Sight:
        if self.said[start:]:
            return Sight(code=None, stage=("pass 1 of 3", 1, 3), said=self.said[start:])
        self.on_look()
        return Sight(code=self.code, stage=None, said=b"")

    def _list(self) -> dict[str, tuple[int, str]]:
        return {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in self.files.items()}

    def _read(self, name: str, start: int) -> bytes:
        return self.files[name][start : start + 1000]

    def _end(self) -> None:
        pass


class FakeCluster:
    """Opens for each job the remotes that it was given, in their order; remembers where and with whom each ran."""

    def __init__(self, hosts: Sequence[Host], remotes: Mapping[str, Sequence[FakeRemote]]) -> None:
        self.hosts = hosts
        self.dead: set[str] = set()
        self.went: list[tuple[str, str]] = []
        self.is_known = True
        self._remotes = {name: list(tries) for name, tries in remotes.items()}

    def open(self, host: Host, needs: Needs, stop: threading.Event, wait_s: float) -> FakeRemote:
        name = threading.current_thread().name
        self.went.append((name, host.name))
        return self._remotes[name].pop(0)

    def is_alive(self, host: Host) -> bool:
        return host.name not in self.dead

    def find_known(self, environments: Sequence[Mapping[str, Any]]) -> list[bool]:
        return [self.is_known for _ in environments]

    def die(self, name: str) -> Callable[[], None]:
        """Return what has a host die while a job there is looked at."""

        def looked_at() -> None:
            self.dead.add(name)
            raise LostError("HostDied", "the host died while the check ran (too many heartbeats missed)")

        return looked_at


def wait_for(stop: threading.Event) -> None:
    """Be a host that runs until it is told to stop."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if stop.wait(0.01):
            raise StoppedError
