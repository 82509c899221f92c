"""Ray as a cluster: the only module that knows it.

An errand is an actor, not a task: it is asked how far it is while it runs, told to end and heard saying that it has,
and all of that works through Ray's client, too. It is bound to its node, takes what the job needs there, and is never
restarted by Ray. A link is left alone by means of the resource `node:<address>`, of which Ray gives each node 1.0: who
measures one takes all of it, everybody else a thousandth. So two suites of ours on one cluster leave each other alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from djinn_checks.errors import LostError, RunnerError, StoppedError
from djinn_checks.suite.cluster.errand import Errand
from djinn_checks.suite.cluster.facts import describe_host, find_difference, find_known
from djinn_checks.suite.cluster.needs import Needs
from djinn_checks.suite.cluster.placement import Host

OLDEST = (2, 50)
_SCHEME = "ray://"
_STORE_BYTES = 200_000_000
"""Of the object store of a Ray that is started here; files travel in pieces of 4 MiB."""
_ASK_S, _SILENT_S, _CLASSIFY_S, _CLOSE_S = 120.0, 300.0, 30.0, 45.0
_WAIT_S = 0.5
_SHARE = 0.001
_LONGEST_REASON = 400
_MEMORY = "Memory on the node"
"""What Ray's memory monitor begins its reason with."""


class RayErrand:
    """An errand on a node, called through Ray."""

    def __init__(self, cluster: RayCluster, host: Host, actor: Any, stop: threading.Event, wait_s: float) -> None:
        self._cluster, self._host, self._actor, self._stop, self._wait_s = cluster, host, actor, stop, wait_s
        self._is_there = False

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of the errand; see `Remote`. The first one waits for as long as others hold what it needs."""
        ray = self._cluster.ray
        end = time.monotonic() + (_SILENT_S if self._is_there else self._wait_s)
        try:
            ref = getattr(self._actor, name).remote(*arguments)
            while not ray.wait([ref], timeout=_WAIT_S)[0]:
                if self._stop.is_set():
                    raise StoppedError
                if time.monotonic() > end:
                    raise self._tell_silence()
            found = ray.get(ref)
        except ray.exceptions.RayError as error:
            raise self._cluster.explain(self._host, error) from None
        self._is_there = True
        return found

    def _tell_silence(self) -> LostError:
        if self._is_there:
            return LostError("HostSilent", f"it has not answered for {_SILENT_S:.0f} s")
        what = "others of the cluster held what this check asks for, or its link, all the time that it may take"
        return LostError("NotStarted", f"it could not start: {what} ({self._wait_s:.0f} s)")

    def close(self) -> None:
        """End what runs there, wait for the word that it has ended, and let go of the node. Never raises."""
        ray = self._cluster.ray
        with contextlib.suppress(Exception):
            if self._is_there:
                ray.get(self._actor.end.remote(), timeout=_CLOSE_S)
        with contextlib.suppress(Exception):
            ray.kill(self._actor, no_restart=True)


class RayCluster:
    """The nodes of a Ray cluster, each of which has been asked what it is."""

    def __init__(self, ray: Any, asked_for: Sequence[str] = ()) -> None:
        """Ask every node.

        Args:
            ray: the module, connected.
            asked_for: the systems that jobs will ask for by name.

        Raises:
            RunnerError: there is no node, or one could not run the jobs as this machine would.
        """
        self.ray = ray
        self.notes: list[str] = []
        """What is worth saying of the hosts before anything runs."""
        self._errand = ray.remote(_make_errand_class())
        self.hosts = self._ask_all(asked_for)

    def open(self, host: Host, needs: Needs, stop: threading.Event, wait_s: float) -> RayErrand:
        """Ask for an errand on a host; see `Cluster`."""
        actor = self._errand.options(
            num_cpus=1,
            num_gpus=host.gpus if needs.gpus is None else needs.gpus,
            resources={f"node:{host.address}": 1.0 if needs.alone else _SHARE},
            scheduling_strategy=self._only_there(host.node),
            max_restarts=0,
            max_task_retries=0,
        ).remote()
        return RayErrand(self, host, actor, stop, wait_s)

    def is_alive(self, host: Host) -> bool:
        """Tell whether Ray has not given a node up."""
        return any(node["NodeID"] == host.node and node["Alive"] for node in self._nodes())

    def find_known(self, environments: Sequence[Mapping[str, Any]]) -> list[bool]:
        """Return for each outcome's environment whether any host may be the machine that it tells of."""
        whole = [dict(environment) for environment in environments]
        answers = [self._ask(node, find_known, whole) for node in [host.node for host in self.hosts]]
        return [any(answer[number] for answer in answers) for number in range(len(whole))]

    def explain(self, host: Host, error: Exception) -> LostError:
        """Return why an errand is gone: its node died, Ray or somebody ended the process, or it raised."""
        if isinstance(error, self.ray.exceptions.RayTaskError):
            told = str(error.cause) if getattr(error, "cause", None) else _shorten(str(error).strip().splitlines()[-1])
            return LostError("HostFailed", f"it could not do its part: {told}")
        if _MEMORY in str(error):
            return LostError("OutOfMemory", "Ray ended it, as the memory of its host ran out")
        end = time.monotonic() + _CLASSIFY_S
        pending = self._send(host.node, os.getpid)
        while time.monotonic() < end:
            died = next((node for node in self._nodes() if node["NodeID"] == host.node and not node["Alive"]), None)
            if died is not None:
                why = _without_addresses(str(died.get("DeathReasonMessage") or "Ray does not say why"))
                return LostError("HostDied", f"the host died while the check ran ({why})")
            if self.ray.wait([pending], timeout=_WAIT_S)[0]:
                with contextlib.suppress(self.ray.exceptions.RayError):
                    self.ray.get(pending)
                    return LostError(
                        "WorkerKilled", "the process of Ray's that looked after it was ended; the host is alive"
                    )
        return LostError("HostDied", "the host does not answer any more")

    def _nodes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ray.nodes()
        return found

    def _ask_all(self, asked_for: Sequence[str]) -> list[Host]:
        here, hosts = {**describe_host(), "systems_asked_for": list(asked_for)}, []
        nodes = [node for node in self._nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        if not nodes:
            raise RunnerError(
                "Ray knows of no living node with a CPU for work; start one, or add --num-cpus to `ray start`"
            )
        for number, node in enumerate(sorted(nodes, key=lambda node: (node["NodeManagerAddress"], node["NodeID"])), 1):
            address = node["NodeManagerAddress"]
            there = self._ask(node["NodeID"], describe_host)
            difference = find_difference(here, there)
            if difference:
                raise RunnerError(f"host {number} ({address}) could not run this suite: {difference}")
            gpus = int(node["Resources"].get("GPU", 0))
            machine = there["machine"] or node["NodeID"]
            hosts.append(Host(number=number, node=node["NodeID"], address=address, gpus=gpus, machine=machine))
            self.notes.append(_note(hosts[-1], there, int(node["Resources"]["CPU"])))
        return hosts

    def _ask(self, node: str, function: Any, *arguments: Any) -> Any:
        """Have a function called on a node."""
        try:
            return self.ray.get(self._send(node, function, *arguments), timeout=_ASK_S)
        except self.ray.exceptions.GetTimeoutError:
            raise RunnerError(f"a node of Ray's did not answer within {_ASK_S:.0f} s; is it overloaded?") from None
        except (self.ray.exceptions.RayError, ImportError, AttributeError) as error:
            told = _shorten(str(error).strip().splitlines()[-1])
            address = next((found["NodeManagerAddress"] for found in self._nodes() if found["NodeID"] == node), node)
            raise RunnerError(
                f"{address}: this version of djinn-checks is not installed there, or not for the Python that Ray runs "
                f"({told}); install the same on each host"
            ) from None

    def _send(self, node: str, function: Any, *arguments: Any) -> Any:
        task = self.ray.remote(_unbound(function)).options(
            num_cpus=0, max_retries=0, scheduling_strategy=self._only_there(node)
        )
        return task.remote(*arguments)

    @staticmethod
    def _only_there(node: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node_id=node, soft=False)


@contextlib.contextmanager
def connected(where: str, asked_for: Sequence[str] = ()) -> Iterator[RayCluster]:
    """Give the cluster for as long as the block runs.

    Args:
        where: "ray": the cluster that RAY_ADDRESS names or that runs on this machine, or else one that is started
            here for the block; "ray://<host>:<port>": through Ray's client.
        asked_for: the systems that jobs will ask for by name.

    Raises:
        RunnerError: Ray is not installed or too old, or there is no cluster at that address, or it cannot be used.
    """
    ray = _import_ray()
    try:
        _connect(ray, where)
    except Exception as error:  # Ray raises whatever comes; all of it means that there is no cluster
        raise RunnerError(f"--on {where}: no cluster of Ray's could be reached ({_shorten(str(error))})") from None
    try:
        yield RayCluster(ray, asked_for)
    finally:
        ray.shutdown()


def _connect(ray: Any, where: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    if where.startswith(_SCHEME):
        ray.init(address=where, log_to_driver=False)
        return
    with contextlib.suppress(ConnectionError):
        ray.init(address="auto", **quiet)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray that is started here tells nobody
    ray.init(address="local", include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise RunnerError("--on ray: Ray is not installed; pip install 'djinn-checks[ray]'") from None
    numbers = tuple(int(part) for part in re.findall(r"\d+", ray.__version__)[:2])
    if numbers < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise RunnerError(
            f"--on ray: expected Ray {wanted} or newer, got {ray.__version__}; pip install -U 'ray>={wanted}'"
        )
    return ray


def _make_errand_class() -> type:
    """Return `Errand` as an actor is made of it, with what only Ray can tell."""

    class RaysErrand(Errand):
        def __init__(self) -> None:
            import ray

            variables = (ray.get_runtime_context().runtime_env or {}).get("env_vars") or {}
            super().__init__(threads_are_given="OMP_NUM_THREADS" in variables)

    return RaysErrand


def _unbound(function: Any) -> Any:
    """Return a function that Ray sends as code which looks the other up there: what is missing is said by its name."""
    module, name = function.__module__, function.__name__

    def ask(*arguments: Any) -> Any:
        import importlib

        return getattr(importlib.import_module(module), name)(*arguments)

    return ask


def _note(host: Host, there: Mapping[str, Any], cpus: int) -> str:
    gpus = f"{host.gpus} GPU{'s' if host.gpus != 1 else ''}, " if host.gpus else ""
    nice = there.get("nice", 0)
    slow = f"; Ray runs work there at nice {nice}, which RAY_worker_niceness=0 for `ray start` avoids"
    return f"{host.name} is {host.address}: {gpus}{cpus} CPUs{'' if there.get('may_be_less_nice', True) else slow}"


def _without_addresses(text: str) -> str:
    """Return Ray's reason in one line without the names of nodes and hosts."""
    plain = re.sub(
        r"\b[0-9a-f]{40,}\b|\b\d{1,3}(\.\d{1,3}){3}(:\d+)?\b|\[?[0-9a-f]*:[0-9a-f:]*:[0-9a-f]+\]?", "…", text
    )
    return _shorten(plain)


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}…"
