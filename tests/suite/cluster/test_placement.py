"""What a job asks for, where it may start, and what goes with it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from djinn_checks.errors import RunnerError
from djinn_checks.params import PARAMS
from djinn_checks.suite.cluster.luggage import cut, is_inside, pack
from djinn_checks.suite.cluster.needs import Needs, find_needs
from djinn_checks.suite.cluster.placement import Host, Placement
from djinn_checks.suite.execution import Job
from djinn_checks.suite.params_folder import read_suite
from tests.suite.cluster.hosts import host

ROOT = Path(__file__).parents[3]


def job(check: str, **values: Any) -> Job:
    resolved = PARAMS[check].create(**values).model_dump(mode="json")
    return Job(name=check, check=check, params_file=Path(), notebook=Path(), values=values, resolved=resolved)


@pytest.mark.parametrize(
    ("check", "values", "most_gpus", "gpus", "alone"),
    [
        ("logits", {"device": "cpu"}, 8, 0, False),
        ("logits", {}, 8, 1, False),
        ("logits", {}, 0, 0, False),
        ("pcie", {"device": "cpu"}, 0, 0, True),
        ("pcie", {"device": "cuda:0"}, 2, 1, True),
        ("pcie", {"gpus": "all"}, 2, None, True),
        ("pcie", {"trace": "a.csv.gz"}, 2, 0, False),
        ("host", {}, 2, None, True),
        ("host", {}, 0, 0, True),
        ("host", {"recording": "a.json.gz"}, 2, 0, False),
        ("agents", {"device": "cpu"}, 2, 0, False),
        ("agents", {}, 2, 1, True),
        ("faults", {"of": ["logits"]}, 2, 1, False),
        ("faults", {"of": ["pcie"], "device": "cpu"}, 2, 0, True),
        ("faults", {}, 2, 1, True),
    ],
)
def test_a_job_asks_for_its_gpus_and_to_be_alone_where_it_measures_a_link(
    check: str, values: dict[str, Any], most_gpus: int, gpus: int | None, alone: bool
) -> None:
    assert find_needs(job(check, **values), most_gpus=most_gpus) == Needs(gpus=gpus, alone=alone)


@pytest.mark.parametrize(
    ("values", "most_gpus", "said"),
    [
        ({"device": "cuda:1"}, 8, "write cuda or auto"),
        ({"device": "cuda"}, 0, "Ray knows of none"),
        ({"gpus": ["GPU-1"]}, 8, "write all, or leave it out"),
    ],
)
def test_what_only_one_machine_could_mean_is_refused(values: dict[str, Any], most_gpus: int, said: str) -> None:
    with pytest.raises(RunnerError, match=said):
        find_needs(job("pcie", **values), most_gpus=most_gpus)


KINDS = {
    "link": Needs(gpus=1, alone=True),
    "whole": Needs(gpus=None, alone=True),
    "gpu": Needs(gpus=1, alone=False),
    "cpu": Needs(gpus=0, alone=False),
}


@pytest.mark.parametrize("seed", range(30))
def test_whatever_comes_no_link_has_a_neighbour_no_gpu_two_jobs_and_every_job_its_turn(seed: int) -> None:
    draw = random.Random(seed)
    hosts = [host(1, gpus=2), host(2, gpus=1, machine="m1"), host(3, gpus=4), host(4)]
    waiting = [f"{draw.choice(list(KINDS))}-{number}" for number in range(20)]
    needs = {name: KINDS[name.partition("-")[0]] for name in waiting}
    placement, running = Placement(hosts, needs), dict[str, Host]()
    while waiting or running:
        while (chosen := placement.choose(waiting)) is not None:
            name, where = chosen
            waiting.remove(name)
            placement.take(name, where)
            running[name] = where
            beside = [other for other, there in running.items() if there.machine == where.machine and other != name]
            assert not beside or not any(needs[other].alone for other in [name, *beside])
            here = [needs[other] for other, there in running.items() if there is where]
            assert sum(where.gpus if need.gpus is None else need.gpus for need in here) <= where.gpus
            assert sum(need.gpus == 0 for need in here) <= 1
        assert running, f"{waiting} wait for nothing"
        done = draw.choice(sorted(running))
        del running[done]
        placement.end(done)


def test_jobs_that_measure_no_link_run_together_and_each_on_the_emptiest_host() -> None:
    placement = Placement([host(1, gpus=2), host(2, gpus=2)], {"a": KINDS["gpu"], "b": KINDS["gpu"], "c": KINDS["gpu"]})
    where = []
    for name in "abc":
        chosen = placement.choose([name])
        assert chosen is not None
        placement.take(*chosen)
        where.append(chosen[1].number)
    assert where == [1, 2, 1]


def test_a_job_that_no_living_host_has_the_gpus_for_is_lost() -> None:
    gpu_host = host(1, gpus=1)
    placement = Placement([gpu_host, host(2)], {"a": KINDS["gpu"]})
    assert not placement.is_lost("a")
    placement.lose(gpu_host)
    assert placement.is_lost("a")


def test_a_trace_goes_along_with_what_lies_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    packed = pack(read_suite(ROOT / "params" / "replay", ["pcie-ring"])[0])
    traces = [f"tests/data/traces/{name}" for name in ("copy_h2d.csv.gz", "ring.csv.gz", "truth.json")]
    assert sorted(packed) == [".suite/pcie-ring.yaml", *traces]
    assert b"".join(cut(packed[traces[1]])) == (ROOT / traces[1]).read_bytes()


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", "a/../../b", "", "a\0"])
def test_no_name_leads_out_of_the_folder_of_a_job(name: str) -> None:
    assert not is_inside(name)
    assert is_inside("a/b.csv")
