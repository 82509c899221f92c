"""The process of a job on its host: nothing of Ray's reaches it, and nothing of it outlives whoever looks after it."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from djinn_checks.processes import start_code
from djinn_checks.suite.cluster import errand as errand_module
from djinn_checks.suite.cluster.errand import Errand
from tests.suite.runs import alive

SAY = """
import os, signal, sys
held = signal.pthread_sigmask(signal.SIG_BLOCK, [])
print(signal.SIGINT in held, os.environ.get("OMP_NUM_THREADS"), os.environ.get("RAY_JOB_ID"), sys.argv[1:3])
open(sys.argv[-1] + "/left.txt", "w").write("x" * 10)
"""
GRANDCHILD = """
import subprocess, sys, time
code = "import time; print('up', flush=True); time.sleep(300)"
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(300)
"""
WORKER = """
import sys, time
from djinn_checks.suite.cluster import errand
errand.module_command = lambda module, places: [sys.executable, "-c", {code!r}]
sent = errand.Errand()
sent.start(["run"])
while not (said := sent.look(0).said.strip()):
    time.sleep(0.02)
print(sent._process.pid, int(said), sent._folder, flush=True)
time.sleep(300)
"""


def wait_until(true: object, limit_s: float = 30.0) -> bool:
    end = time.monotonic() + limit_s
    while not (found := true()) and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.02)
    return bool(found)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Errand]:
    command = [sys.executable, "-c", request.param]
    monkeypatch.setattr(errand_module, "module_command", lambda module, places: command)
    made = Errand()
    yield made
    made.end()


@pytest.mark.parametrize("sent", [SAY], indirect=True)
def test_nothing_that_ray_sets_for_its_worker_reaches_the_check(sent: Errand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_JOB_ID", "01000000")
    monkeypatch.setattr(errand_module, "_read_parent", lambda: {"OMP_NUM_THREADS": "5"})
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as Ray's worker has it
    try:
        sent.put(".suite/a.yaml", b"seed: ")
        sent.put(".suite/a.yaml", b"1\n")
        sent.start(["run", ".suite/a.yaml"])
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert wait_until(lambda: sent.look(0).code is not None)
    assert sent.look(0).said.decode() == "False 5 None ['run', '.suite/a.yaml']\n"
    assert sent.look(6).said.decode().startswith("5 None")
    assert (sent._folder / "place" / ".suite" / "a.yaml").read_text() == "seed: 1\n"
    (size, digest) = sent.list()["left.txt"]
    assert (size, digest, sent.read("left.txt", 4)) == (10, hashlib.sha256(b"x" * 10).hexdigest(), b"x" * 6)
    folder = sent._folder
    sent.end()
    assert not folder.exists()
    sent.end()  # once more does nothing


@pytest.mark.parametrize("sent", [GRANDCHILD], indirect=True)
def test_an_end_leaves_no_process_and_no_folder(sent: Errand) -> None:
    sent.start(["run"])
    assert wait_until(lambda: sent.look(0).said)
    grandchild, folder = int(sent.look(0).said), sent._folder
    assert alive(grandchild)
    sent.end()
    assert not alive(grandchild)
    assert not folder.exists()


def test_a_worker_that_is_killed_takes_all_of_it_along(tmp_path: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", start_code(f"exec({WORKER.format(code=GRANDCHILD)!r})")],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert worker.stdout is not None
    warden, grandchild, folder = worker.stdout.readline().decode().split()
    assert alive(int(grandchild))
    assert os.getsid(int(warden)) == int(warden), "whoever ends the worker's group does not end the warden"
    worker.kill()
    worker.wait()
    assert wait_until(lambda: not alive(int(grandchild)) and not psutil.pid_exists(int(warden)))
    assert wait_until(lambda: not Path(folder).exists())


def test_a_name_that_leads_elsewhere_is_refused() -> None:
    made = Errand()
    try:
        with pytest.raises(Exception, match="expected a path below"):
            made.put("../a", b"")
        with pytest.raises(Exception, match="expected the name of one"):
            made.read("../said.txt", 0)
    finally:
        made.end()
