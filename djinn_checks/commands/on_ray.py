"""`djinn-checks run --on ray`: a suite on the hosts of a cluster, with a bar or a line per host."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from djinn_checks.commands.running import (
    INTERVAL_S,
    bars,
    expect_reports,
    name_suite,
    print_results,
    report_to_gate,
    tell_result,
)
from djinn_checks.report.progress import Stage
from djinn_checks.suite.cluster.fleet import Fleet, Listener
from djinn_checks.suite.cluster.on_ray import connected
from djinn_checks.suite.given import read_given
from djinn_checks.suite.params_folder import read_limits, read_suite
from djinn_checks.suite.runner import Result
from djinn_checks.visible import make_visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from djinn_checks.commands.gate import Gate
    from djinn_checks.suite.cluster.placement import Host
    from djinn_checks.suite.execution import Job


def run_on_ray_and_print(
    suite: Path,
    out: Path | None,
    *,
    only: Sequence[str],
    given: Sequence[str],
    resume: bool,
    limits: Mapping[str, float | None],
    on: str,
    retries: int,
    gate: Gate,
) -> list[Result]:
    """Run a suite on a cluster, print what comes of it, and return the results; see `run_and_print`.

    Args:
        on: "ray", or the address of Ray's client, "ray://<host>:<port>".
        retries: how often a check is tried again that was lost with its host.
        gate: told of each report as it comes.

    Raises:
        ParamsError: a parameter cannot be right; nothing ran.
        RunnerError: the suite, the folder or the cluster cannot be used.
    """
    from rich.console import Console

    jobs = read_suite(suite, only, read_given(given))
    out = out or Path("reports") / name_suite(suite)
    console, results = Console(), []
    expect_reports(gate, jobs)
    with connected(on, _systems(jobs)) as cluster, telling_hosts(console, len(jobs)) as teller:
        for note in cluster.notes:
            teller.say(f"djinn-checks: {note}")
        fleet = Fleet(
            cluster,
            jobs,
            out,
            limits=read_limits(suite).replace_by(**limits),
            given=given,
            retries=retries,
            listener=Listener(start=teller.start, stage=teller.tell, again=teller.again, end=teller.end),
        )
        for result in fleet.run(resume=resume, part=bool(only) or suite.is_file()):
            results.append(result)
            gate.add(report_to_gate(result))
            teller.say(tell_result(result))
    print_results(console, results, out)
    return results


def _systems(jobs: Sequence[Job]) -> list[str]:
    """Return the systems that jobs name, which have to be registered wherever they run."""
    asked = [job.resolved.get("system") for job in jobs if not job.resolved.get("trace")]
    return sorted({system for system in asked if isinstance(system, str)})


@contextlib.contextmanager
def telling_hosts(console: Console, total: int) -> Iterator[HostsTeller]:
    """Give what tells how far each host is: bars if the console is a terminal, else lines."""
    with bars(console) as (bar, say):
        tasks: dict[str, TaskID] = {}

        def show(key: str, text: str | None, share: float) -> None:
            if text is None:
                if key in tasks:
                    bar.remove_task(tasks.pop(key))
                return
            if key not in tasks:
                tasks[key] = bar.add_task("", total=1.0)
            bar.update(tasks[key], description=make_visible(text), completed=share)

        yield HostsTeller(total, show if console.is_terminal else None, say)


class HostsTeller:
    """Tells which check runs on which host, in which stage, and how far that is. Called from many threads."""

    def __init__(
        self,
        total: int,
        show: Callable[[str, str | None, float], None] | None,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing done.

        Args:
            total: how many checks there are.
            show: draws the bar of that key with a text, or removes it with None; None: nobody watches, so lines are
                said at intervals.
            say: prints a line that stays.
        """
        self._total, self._show, self._clock = total, show, clock
        self.say = say
        self._done = 0
        self._lock = threading.Lock()
        self._running: dict[str, tuple[float, str]] = {}
        self._said: dict[str, float] = {}

    def start(self, job: Job, host: Host) -> None:
        """Tell that a check goes to a host."""
        with self._lock:
            self._running[job.name] = (self._clock(), host.name)
            self._said[host.name] = self._clock()
            self._put(job, host, "starts", 0.0, is_due=True)

    def tell(self, job: Job, host: Host, stage: Stage) -> None:
        """Tell the stage that a check is in; in a pipe one line per host at intervals, whatever runs there."""
        with self._lock:
            if job.name not in self._running:
                return
            is_due = self._clock() - self._said.get(host.name, 0.0) >= INTERVAL_S
            self._put(job, host, stage.describe(), stage.share(), is_due=is_due)

    def again(self, job: Job, host: Host, reason: str) -> None:
        """Tell that a check was lost and is tried again."""
        self._leave(job)
        self.say(f"...  {job.name} was lost on {host.name} and is tried again: {reason}")

    def end(self, job: Job, host: Host | None) -> None:
        """Tell that a check has ended."""
        self._leave(job)
        self._done += 1

    def _leave(self, job: Job) -> None:
        with self._lock:
            self._running.pop(job.name, None)
            if self._show is not None:
                self._show(job.name, None, 0.0)

    def _put(self, job: Job, host: Host, text: str, share: float, *, is_due: bool) -> None:
        place = f"{host.name}: {job.name} ({self._done} of {self._total} done)"
        if self._show is not None:
            self._show(job.name, f"{place}: {text}", share)
        elif is_due:
            since = self._clock() - self._running[job.name][0]
            self._said[host.name] = self._clock()
            self.say(f"...  {place}: {text}" + (f", {since:.0f} s" if since >= 1 else ""))
