"""Runs a suite on the hosts of a cluster and keeps what comes back, in the folder and the form that one host's run has.

Each job has a thread that goes with it (`journey.py`); whatever is stored, shown or decided is so in this one.
"""

from __future__ import annotations

import contextlib
import math
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from djinn_checks.report.progress import Stage
from djinn_checks.suite.cluster.journey import Back, Remote, Trip, limit_of, travel
from djinn_checks.suite.cluster.luggage import pack, params_place
from djinn_checks.suite.cluster.needs import Needs, find_all_needs
from djinn_checks.suite.cluster.placement import Host, Placement
from djinn_checks.suite.cluster.settling import settle_back, settle_no_host, settle_unstarted
from djinn_checks.suite.execution import Job
from djinn_checks.suite.folder import read_outcomes, render_fault_notes, write_index
from djinn_checks.suite.limits import owner_may
from djinn_checks.suite.lock import alone_in
from djinn_checks.suite.params_folder import Limits
from djinn_checks.suite.runner import Result, find_result, hold_signals, set_aside_earlier
from djinn_checks.suite.scratch import scratch_folder
from djinn_checks.suite.storage import clear

_TICK_S = 0.2
_ENDING_S = 90.0
"""How long hosts are waited for that were told to end their jobs."""


class Cluster(Protocol):
    """Hosts that errands can be opened on."""

    @property
    def hosts(self) -> Sequence[Host]: ...

    def open(self, host: Host, needs: Needs, stop: threading.Event, wait_s: float) -> Remote:
        """Ask for an errand there. It may have to wait for what others hold, for so many seconds at most."""

    def is_alive(self, host: Host) -> bool: ...

    def find_known(self, environments: Sequence[Mapping[str, Any]]) -> list[bool]:
        """Return for each outcome's environment whether any host may be the machine that it tells of."""


@dataclass(kw_only=True)
class Listener:
    """Told how a suite goes."""

    start: Callable[[Job, Host], None] = lambda job, host: None
    stage: Callable[[Job, Host, Stage], None] = lambda job, host, stage: None
    again: Callable[[Job, Host, str], None] = lambda job, host, reason: None
    """A job was lost for that reason and is tried again."""
    end: Callable[[Job, Host | None], None] = lambda job, host: None


@dataclass(kw_only=True)
class _Try:
    """One try of a job on a host."""

    job: Job
    host: Host
    folder: Path
    stack: contextlib.ExitStack
    limit_s: float
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    clock: float = field(default_factory=time.monotonic)
    back: Back | None = None


class Fleet:
    """A suite that runs on a cluster; made for one."""

    def __init__(
        self,
        cluster: Cluster,
        jobs: Sequence[Job],
        out: Path,
        *,
        limits: Limits,
        given: Sequence[str] = (),
        retries: int = 0,
        listener: Listener | None = None,
    ) -> None:
        """Find out what each job asks for and takes along.

        Args:
            cluster: where the jobs run.
            jobs: validated.
            out: where reports go.
            limits: of time.
            given: `name=value` texts of the command line, which hosts are given, too.
            retries: how often a job is tried again that was lost with its host; what a check finds is never retried.
            listener: is told how it goes.

        Raises:
            RunnerError: a job asks for what no host has.
        """
        self._cluster, self._out, self._limits, self._given = cluster, out, limits, given
        self._jobs = {job.name: job for job in jobs}
        self._needs = find_all_needs(jobs, most_gpus=max((host.gpus for host in cluster.hosts), default=0))
        self._luggage = {job.name: pack(job) for job in jobs}
        self._placement = Placement(cluster.hosts, self._needs)
        self._tries_left = dict.fromkeys(self._jobs, retries)
        self._listener = listener or Listener()
        self._stop = threading.Event()
        self._backs: queue.Queue[_Try] = queue.Queue()
        self._running: dict[str, _Try] = {}
        self._end = math.inf

    def run(self, *, resume: bool = False, part: bool = False) -> Iterator[Result]:
        """Run the jobs and give each result as it is stored; see `run_suite` for the folder and for stopping.

        Raises:
            RunnerError: the folder cannot be used.
        """
        with alone_in(self._out), hold_signals() as held, owner_may():
            if not resume:
                set_aside_earlier(self._out, list(self._jobs) if part else None)
            self._end = time.monotonic() + (self._limits.suite_timeout_s or math.inf)
            known = self._find_known() if resume else {}
            for result in known.values():
                self._listener.end(result.job, None)
                yield result
            waiting = [name for name in self._jobs if name not in known]
            try:
                yield from self._run(waiting, held)
            finally:
                self._stop.set()
                self._await_all()
            with contextlib.suppress(Exception):  # every report is there already
                write_index(self._out)
                render_fault_notes(self._out)
        if held:
            raise KeyboardInterrupt

    def _run(self, waiting: list[str], held: list[int]) -> Iterator[Result]:
        while (waiting and not held) or self._running:
            if held:
                self._stop.set()
            else:
                yield from self._give_up(waiting)
                self._start_some(waiting)
            with contextlib.suppress(queue.Empty):
                result = self._receive(self._backs.get(timeout=_TICK_S), waiting)
                if result is not None:
                    yield self._show(result)

    def _start_some(self, waiting: list[str]) -> None:
        while (chosen := self._placement.choose(waiting)) is not None:
            name, host = chosen
            waiting.remove(name)
            self._placement.take(name, host)
            self._start(self._jobs[name], host)

    def _start(self, job: Job, host: Host) -> None:
        clear(job.name, self._out)
        stack = contextlib.ExitStack()
        limit_s = limit_of(self._limits.timeout_s, self._end - time.monotonic())
        going = _Try(job=job, host=host, folder=stack.enter_context(scratch_folder()), stack=stack, limit_s=limit_s)
        trip = Trip(
            luggage=self._luggage[job.name],
            arguments=self._arguments(job, limit_s),
            limit_s=limit_s,
            folder=going.folder,
            log=self._out / f"{job.name}.log",
        )
        self._running[job.name] = going
        self._listener.start(job, host)
        threading.Thread(target=self._travel, args=(going, trip), daemon=True, name=job.name).start()

    def _travel(self, going: _Try, trip: Trip) -> None:
        try:
            opening = partial(self._cluster.open, going.host, self._needs[going.job.name], self._stop, trip.limit_s)
            going.back = travel(opening, trip, self._stop, partial(self._listener.stage, going.job, going.host))
        finally:
            self._backs.put(going)

    def _arguments(self, job: Job, limit_s: float) -> list[str]:
        given = [text for text in self._given if text.partition("=")[0] in job.resolved]
        cell = self._limits.cell_timeout_s
        return [
            "run",
            params_place(job),
            *(part for text in given for part in ("--set", text)),
            *("--timeout", f"{limit_s:.3f}"),
            *(() if cell is None else ("--cell-timeout", str(cell))),
        ]

    def _receive(self, going: _Try, waiting: list[str]) -> Result | None:
        """Store what came of a try; None if the job is tried again."""
        job, back = going.job, going.back
        del self._running[job.name]
        self._placement.end(job.name)
        with going.stack:
            if back is not None and back.lost is not None:
                if not self._cluster.is_alive(going.host):
                    self._placement.lose(going.host)
                if self._tries_left[job.name] and not self._stop.is_set():
                    self._tries_left[job.name] -= 1
                    waiting.insert(0, job.name)
                    self._listener.again(job, going.host, str(back.lost))
                    return None
            result = settle_back(
                job, back, going.folder, self._out, going.started, time.monotonic() - going.clock, going.host
            )
        self._listener.end(job, going.host)
        return result

    def _give_up(self, waiting: list[str]) -> Iterator[Result]:
        """Settle what no host is left for, and what the suite has no time left for."""
        over = time.monotonic() >= self._end
        for name in list(waiting):
            if over or self._placement.is_lost(name):
                waiting.remove(name)
                job, settling = self._jobs[name], settle_unstarted if over else settle_no_host
                self._listener.end(job, None)
                yield self._show(settling(job, self._out))

    def _show(self, result: Result) -> Result:
        try:
            write_index(self._out)
        except Exception as error:  # made anew with the next, or by `render`
            problem = f"the front page could not be written ({type(error).__name__}: {error})"
            return replace(result, report_problem=f"{result.report_problem or result.html_file}; {problem}")
        return result

    def _find_known(self) -> dict[str, Result]:
        """Return what an earlier run left of the same params, made on a machine that may be one of the hosts."""
        outcomes = read_outcomes(self._out) if self._out.is_dir() else {}
        names = [name for name in self._jobs if name in outcomes]
        is_known = self._cluster.find_known([outcomes[name].environment for name in names]) if names else []
        found = {}
        for name in (name for name, known in zip(names, is_known, strict=True) if known):
            result = find_result(self._jobs[name], self._out, is_known=True)
            if result is not None:
                found[name] = result
        return found

    def _await_all(self) -> None:
        """Wait until every host has ended what it was told to, and remove what this side keeps for them."""
        end = time.monotonic() + _ENDING_S
        while self._running and time.monotonic() < end:
            with contextlib.suppress(queue.Empty):
                going = self._backs.get(timeout=_TICK_S)
                self._running.pop(going.job.name, None)
                going.stack.close()
        for going in self._running.values():
            shutil.rmtree(going.folder, ignore_errors=True)
