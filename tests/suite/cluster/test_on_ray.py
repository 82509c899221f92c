"""What Ray says becomes a sentence; where Ray is installed, two nodes of its own show that it does as is believed."""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from djinn_checks.cli import main
from djinn_checks.errors import LostError, RunnerError, StoppedError
from djinn_checks.suite.cluster import on_ray
from djinn_checks.suite.cluster.facts import describe_host, find_difference, find_known
from djinn_checks.suite.cluster.needs import Needs
from djinn_checks.suite.cluster.on_ray import RayCluster, RayErrand, connected
from tests.suite.cluster.hosts import host
from tests.suite.runs import alive

NODE = "a" * 56
OOM = "Memory on the node (IP: 10.0.0.1) was 30 of 31 GB"
DIED = f"health check of {NODE} at 10.0.0.1:6379 failed due to missing too many heartbeats"


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class FakeRay:
    """What of Ray's interface is asked, with nodes that answer, or do not."""

    exceptions = SimpleNamespace(
        RayError=RayError, RayTaskError=RayTaskError, GetTimeoutError=type("T", (RayError,), {})
    )

    def __init__(self, *, alive: bool = True, answers: bool = True, reason: str = DIED) -> None:
        self.answers = answers
        self.node = {"NodeID": NODE, "Alive": alive, "DeathReasonMessage": reason, "NodeManagerAddress": "10.0.0.1"}

    def nodes(self) -> list[dict[str, Any]]:
        return [self.node]

    def wait(self, refs: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return (refs, []) if self.answers else ([], refs)

    def get(self, ref: Any, timeout: float = 0.0) -> Any:
        return ref


def cluster_of(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> RayCluster:
    monkeypatch.setattr(on_ray, "_CLASSIFY_S", 0.0 if not ray.answers else 5.0)
    cluster = RayCluster.__new__(RayCluster)
    cluster.ray = ray
    monkeypatch.setattr(cluster, "_send", lambda node, function, *arguments: "ref")
    return cluster


@pytest.mark.parametrize(
    ("ray", "error", "kind", "said"),
    [
        (FakeRay(alive=False), RayError("x"), "HostDied", "health check of … at … failed due to missing too many"),
        (FakeRay(), RayError("the actor died"), "WorkerKilled", "the host is alive"),
        (FakeRay(answers=False), RayError("x"), "HostDied", "does not answer any more"),
        (FakeRay(), RayError(OOM), "OutOfMemory", "memory of its host ran out"),
        (FakeRay(), RayTaskError("Traceback\nOSError: no space"), "HostFailed", "not do its part: OSError: no space"),
    ],
)  # fmt: skip
def test_why_an_errand_is_gone(
    ray: FakeRay, error: RayError, kind: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = cluster_of(ray, monkeypatch).explain(
        host(1).__class__(number=1, node=NODE, address="10.0.0.1", gpus=0, machine="m"), error
    )
    assert lost.kind == kind
    assert said in str(lost)
    assert "10.0.0.1" not in str(lost)
    assert NODE not in str(lost)


def test_who_waits_for_a_place_is_told_to_stop_or_has_waited_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "_WAIT_S", 0.0)
    cluster = cluster_of(FakeRay(answers=False), monkeypatch)
    actor = SimpleNamespace(put=SimpleNamespace(remote=lambda *arguments: "ref"))
    stop = threading.Event()
    with pytest.raises(LostError, match="others of the cluster held what this check asks for"):
        RayErrand(cluster, host(1), actor, stop, 0.0).call("put", "a", b"")
    stop.set()
    with pytest.raises(StoppedError):
        RayErrand(cluster, host(1), actor, stop, 100.0).call("put", "a", b"")


def test_a_host_of_another_version_or_commit_or_without_a_system_is_refused_with_a_sentence() -> None:
    here = describe_host()
    assert find_difference(here, here) == ""
    assert "it has djinn-checks 0.0.1, and here it is" in find_difference(here, {**here, "version": "0.0.1"})
    assert "is of another commit" in find_difference(here, {**here, "code": "0"})
    assert "has djinn-checks None" in find_difference(here, {}), "one so old that it says nothing"
    asked = {**here, "systems_asked_for": ["mine", *here["systems"][:1]]}
    assert find_difference(asked, here).startswith("it has no system mine;")
    assert find_known([{"platform": "another"}, {}]) == [False, True]


def test_without_ray_or_with_an_old_one_a_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert main(["run", "params/replay", "--on", "ray"]) == 2
    assert "pip install 'djinn-checks[ray]'" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "ray", SimpleNamespace(__version__="2.9.3"))
    with pytest.raises(RunnerError, match=r"expected Ray 2\.50 or newer, got 2\.9\.3"), connected("ray"):
        pass
    assert main(["run", "params/replay", "--retries", "1"]) == 2
    assert "goes with --on" in capsys.readouterr().err
    assert main(["run", "params/replay", "--on", "ray", "--shard", "1/2"]) == 2
    assert "--shard and --gpu: are for one host" in capsys.readouterr().err
    for wrong in ("slurm", "ray://", "ray://head", "ray://head:x", "ray://:1", "ray://h:70000", "ray://h /x:1"):
        with pytest.raises(SystemExit):
            main(["run", "params/replay", "--on", wrong])


def test_on_two_nodes_of_rays_own_links_are_left_alone_and_a_killed_worker_leaves_nothing() -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 80_000_000})
    made.add_node(num_cpus=2, object_store_memory=80_000_000)
    os.environ["RAY_ADDRESS"] = made.address
    stop = threading.Event()
    try:
        with connected("ray") as cluster:
            first, second = cluster.hosts
            assert first.machine == second.machine
            measuring = cluster.open(first, Needs(gpus=0, alone=True), stop, 60.0)
            measuring.call("put", "endless.py", b"")
            beside = cluster.open(first, Needs(gpus=0, alone=False), stop, 2.0)
            with pytest.raises(LostError, match="could not start"):
                beside.call("look", 0)
            elsewhere = cluster.open(second, Needs(gpus=0, alone=False), stop, 60.0)
            assert elsewhere.call("look", 0)[0] is None
            measuring.call("start", ["serve", "--model", "random:tiny", "--port", "0"])
            mine = psutil.Process().children(recursive=True)  # the nodes and their workers, of this test alone
            worker = next(found for found in mine if "RaysErrand" in _line(found) and found.children())
            family = [process.pid for process in worker.children(recursive=True)]
            assert family
            worker.kill()
            with pytest.raises(LostError) as lost:
                _look_until_lost(measuring)
            assert lost.value.kind == "WorkerKilled"
            end = time.monotonic() + 20
            while any(map(alive, family)) and time.monotonic() < end:
                time.sleep(0.1)
            assert not any(map(alive, family))
            elsewhere.close()
    finally:
        del os.environ["RAY_ADDRESS"]
        made.shutdown()


def _look_until_lost(errand: RayErrand) -> None:
    while True:
        errand.call("look", 0)


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
