"""A suite on several hosts ends as one on this machine does: every job has its outcome, its report and its line."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from djinn_checks.outcome import Outcome, Status
from djinn_checks.suite.cluster.fleet import Fleet, Listener
from djinn_checks.suite.execution import Job
from djinn_checks.suite.params_folder import Limits
from djinn_checks.suite.runner import Result
from tests.suite.cluster.hosts import FakeCluster, FakeRemote, host, left_by, suite, wait_for


def remotes(jobs: list[Job], tmp_path: Path) -> dict[str, list[FakeRemote]]:
    return {job.name: [FakeRemote(left_by(job, tmp_path))] for job in jobs}


def run(cluster: FakeCluster, jobs: list[Job], tmp_path: Path, **options: object) -> dict[str, Result]:
    resume = bool(options.pop("resume", False))
    fleet = Fleet(cluster, jobs, tmp_path / "out", **{"limits": Limits(), **options})  # type: ignore[arg-type]
    return {result.job.name: result for result in fleet.run(resume=resume)}


def failure(result: Result) -> tuple[str, str]:
    stored = Outcome.load(result.outcome_file)
    assert stored.status is Status.ERROR
    assert stored.failure is not None
    assert result.html_file is not None, result.report_problem
    assert "<strong>ERROR</strong>" in result.html_file.read_text()
    assert "10.0.0.1" not in result.outcome_file.read_text(), "an outcome names no host by its address"
    return stored.failure.type, stored.failure.message


def test_all_hosts_are_used_and_one_page_shows_what_came_back(tmp_path: Path) -> None:
    jobs = suite(tmp_path, "logits-a", "logits-b", "logits-c")
    made = remotes(jobs, tmp_path)
    cluster = FakeCluster([host(1), host(2)], made)
    results = run(cluster, jobs, tmp_path, given=["seed=0", "agents=2"], limits=Limits(timeout_s=50, cell_timeout_s=7))
    assert {where for _, where in cluster.went} == {"host 1", "host 2"}
    out, remote = tmp_path / "out", made["logits-a"][0]
    for name, result in results.items():
        assert result.outcome.status is Status.PASS
        assert (out / f"{name}.html").read_text() == "<html>page</html>"
        assert (out / f"{name}.log").read_text() == "the whole log\n"
        assert (out / f"{name}.params.yaml").is_file()
        assert name in (out / "index.html").read_text()
    assert remote.put[".suite/logits-a.yaml"] == jobs[0].params_file.read_bytes()
    assert remote.arguments[:4] == ["run", ".suite/logits-a.yaml", "--set", "seed=0"], "of what this check has"
    assert remote.arguments[4:] == ["--timeout", "50.000", "--cell-timeout", "7"]
    assert remote.is_closed
    assert not [file.name for file in out.iterdir() if file.name.startswith(".")]


def test_a_host_that_dies_is_an_error_with_its_reason_and_takes_nothing_else_along(tmp_path: Path) -> None:
    jobs = suite(tmp_path, "logits-a", "logits-b", "logits-c", "logits-d")
    made = remotes(jobs, tmp_path)
    cluster = FakeCluster([host(1), host(2)], made)
    made["logits-b"][0].on_look = cluster.die("host 2")
    results = run(cluster, jobs, tmp_path)
    kind, message = failure(results["logits-b"])
    assert kind == "HostDied"
    assert message == "on host 2: the host died while the check ran (too many heartbeats missed)"
    assert results["logits-b"].outcome.failure is not None
    assert "so far, so good" in results["logits-b"].outcome.failure.traceback, "what it said until then"
    assert (tmp_path / "out" / "logits-b.log").read_text() == "so far, so good\n"
    assert "memory" not in results["logits-b"].outcome.environment, "this machine is not the one that died"
    assert [results[name].outcome.status for name in ("logits-a", "logits-c", "logits-d")] == [Status.PASS] * 3
    assert dict(cluster.went[2:]) == {"logits-c": "host 1", "logits-d": "host 1"}
    assert len(cluster.went) == 4, "nobody asked for a retry"


def test_a_retry_that_was_asked_for_goes_to_another_host_and_is_told(tmp_path: Path) -> None:
    jobs, told = suite(tmp_path, "logits-a", "logits-b"), []
    made = remotes(jobs, tmp_path)
    made["logits-b"].append(FakeRemote(left_by(jobs[1], tmp_path)))
    cluster = FakeCluster([host(1), host(2)], made)
    made["logits-b"][0].on_look = cluster.die("host 2")
    listener = Listener(again=lambda job, where, reason: told.append((job.name, where.name, reason)))
    results = run(cluster, jobs, tmp_path, retries=1, listener=listener)
    assert results["logits-b"].outcome.status is Status.PASS
    assert [where for name, where in cluster.went if name == "logits-b"] == ["host 2", "host 1"]
    assert told[0][:2] == ("logits-b", "host 2")


def test_what_a_check_found_is_never_tried_again(tmp_path: Path) -> None:
    jobs = suite(tmp_path, "logits-a", "logits-b")
    made = {
        "logits-a": [FakeRemote(left_by(jobs[0], tmp_path, Status.ERROR), code=4)],
        "logits-b": [FakeRemote(left_by(jobs[1], tmp_path, Status.FAIL), code=1)],
    }
    cluster = FakeCluster([host(1)], made)
    results = run(cluster, jobs, tmp_path, retries=3)
    assert [result.outcome.status for result in results.values()] == [Status.ERROR, Status.FAIL]
    assert len(cluster.went) == 2


def test_when_the_last_host_is_gone_the_rest_says_so(tmp_path: Path) -> None:
    jobs = suite(tmp_path, "logits-a", "logits-b")
    made = remotes(jobs, tmp_path)
    cluster = FakeCluster([host(1)], made)
    made["logits-a"][0].on_look = cluster.die("host 1")
    results = run(cluster, jobs, tmp_path)
    assert failure(results["logits-a"])[0] == "HostDied"
    assert failure(results["logits-b"])[0] == "NoHost"


@pytest.fixture
def heeded_sigint() -> Iterator[None]:
    """Ctrl-C raises here, also where the tests were started with it ignored, as a shell does in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_sigint")
def test_ctrl_c_ends_what_runs_everywhere_and_keeps_what_is_finished(tmp_path: Path) -> None:
    jobs = suite(tmp_path, "logits-a", "logits-b", "logits-c")
    made = remotes(jobs, tmp_path)
    cluster = FakeCluster([host(1)], made)
    fleet = Fleet(cluster, jobs, tmp_path / "out", limits=Limits())

    def interrupted(stop: threading.Event) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(stop)

    made["logits-b"][0].on_look = partial(interrupted, fleet._stop)
    results = []
    with pytest.raises(KeyboardInterrupt):
        results.extend(fleet.run())
    done = {name: Outcome.load(tmp_path / "out" / f"{name}.outcome.json") for name in ("logits-a", "logits-b")}
    assert done["logits-a"].status is Status.PASS
    assert done["logits-b"].failure is not None
    assert done["logits-b"].failure.type == "Interrupted"
    assert not (tmp_path / "out" / "logits-c.outcome.json").exists(), "it was not started"
    assert made["logits-b"][0].is_closed
    assert "logits-a" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize(
    ("code", "said", "kind", "message"),
    [
        (2, b"djinn-checks: system: unknown name 'mine'\n", "Refused", "says: system: unknown name 'mine'"),
        (0, b"", "NoOutcome", "on host 1: "),
    ],
)
def test_a_host_that_ran_nothing_says_why(tmp_path: Path, code: int, said: bytes, kind: str, message: str) -> None:
    jobs = suite(tmp_path, "logits")
    cluster = FakeCluster([host(1)], {"logits": [FakeRemote({}, code=code, said=said)]})
    found = failure(run(cluster, jobs, tmp_path)["logits"])
    assert found[0] == kind
    assert message in found[1]


def test_an_outcome_of_other_params_is_not_taken(tmp_path: Path) -> None:
    jobs = suite(tmp_path, "logits")
    left = left_by(jobs[0], tmp_path, params={**jobs[0].resolved, "seed": 7})
    kind, message = failure(run(FakeCluster([host(1)], {"logits": [FakeRemote(left)]}), jobs, tmp_path)["logits"])
    assert kind == "NoOutcome"
    assert "of other params than were asked for" in message


def test_a_file_that_is_cut_short_on_its_way_is_no_verdict(tmp_path: Path) -> None:
    jobs = suite(tmp_path, "logits")
    remote = FakeRemote(left_by(jobs[0], tmp_path))
    listed = remote._list()
    remote.files = {name: data[:-1] for name, data in remote.files.items()}
    remote._list = lambda: listed  # type: ignore[method-assign]
    kind, message = failure(run(FakeCluster([host(1)], {"logits": [remote]}), jobs, tmp_path)["logits"])
    assert kind == "Changed"
    assert "changed while it was fetched" in message


def test_resume_keeps_what_a_host_of_the_cluster_may_have_made(tmp_path: Path) -> None:
    jobs = suite(tmp_path, "logits-a", "logits-b")
    run(FakeCluster([host(1)], remotes(jobs, tmp_path)), jobs, tmp_path)
    (tmp_path / "out" / "logits-b.outcome.json").unlink()
    again = FakeCluster([host(1)], remotes(jobs, tmp_path))
    assert len(run(again, jobs, tmp_path, resume=True)) == 2
    assert [name for name, _ in again.went] == ["logits-b"]
    elsewhere = FakeCluster([host(1)], remotes(jobs, tmp_path))
    elsewhere.is_known = False
    run(elsewhere, jobs, tmp_path, resume=True)
    assert len(elsewhere.went) == 2


def test_a_suite_without_time_starts_nothing_more(tmp_path: Path) -> None:
    jobs = suite(tmp_path, "logits")
    cluster = FakeCluster([host(1)], remotes(jobs, tmp_path))
    results = run(cluster, jobs, tmp_path, limits=Limits(suite_timeout_s=1e-9))
    assert failure(results["logits"])[0] == "NotStarted"
    assert cluster.went == []
