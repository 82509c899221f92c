"""A server with few descriptors answers: sessions take none, and one connection too many is a 503 and no silence."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from djinn_checks.checks.agents.server_process import OWN_SERVER, ServerProcess
from djinn_checks.errors import EngineError
from djinn_checks.server import descriptors
from djinn_checks.server.descriptors import count_connections, raise_limit

FILES = 64
FEW = ("sh", "-c", f'ulimit -n {FILES} && cd "$0" && exec "$@"')
SLEEPING = 90


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    spill = ["--host-swap-pool-gb", "0.0001", "--spill-folder", str(tmp_path_factory.mktemp("spill"))]
    here = tmp_path_factory.mktemp("here")
    (here / "torch.py").write_text("raise SystemExit('what lies in the working folder is no part of the server')")
    sizes = ["--model", "random:tiny", "--device", "cpu", "--port", "0", "--kv-device-gb", "0.1", "--idle-s", "300"]
    with ServerProcess([*sizes, *spill], command=[*FEW, str(here), *OWN_SERVER]) as running:
        yield running


def test_more_sessions_sleep_on_disk_than_the_process_may_open_files(server: ServerProcess) -> None:
    with httpx.Client(base_url=server.address, timeout=60, trust_env=False) as http:
        for number in range(SLEEPING):
            body = {"prompt": [number + 1] * 80, "max_tokens": 1, "agent_hint": {"session_id": f"s{number}"}}
            assert http.post("/v1/completions", json=body).status_code == 200
            assert http.post(f"/v1/sessions/s{number}/phase", json={"phase": "IO_WAIT"}).status_code == 200
        states = {"SWAPPING_OUT"}
        while "SWAPPING_OUT" in states:
            states = {session["state"] for session in http.get("/v1/sessions").json()["sessions"]}
        assert states == {"SWAPPED"}
        woken = http.post("/v1/completions", json={**body, "prompt": [*body["prompt"], 7, 8]}).json()
        assert woken["usage"]["prompt_tokens_details"]["cached_tokens"] >= 80


def test_one_connection_too_many_is_a_503_and_everybody_is_answered_again_afterwards(server: ServerProcess) -> None:
    host, port = server.address.removeprefix("http://").split(":")
    request = f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    held = [socket.create_connection((host, int(port)), timeout=30) for _ in range(FILES)]
    try:
        answers = []
        for connection in held:
            connection.sendall(request)
            answers.append(connection.recv(100)[:12])
    finally:
        for connection in held:
            connection.close()
    ended_at_once = {b""}  # what some event loops do when not even a refusal has a descriptor left
    assert {b"HTTP/1.1 200", b"HTTP/1.1 503"} <= set(answers) <= {b"HTTP/1.1 200", b"HTTP/1.1 503"} | ended_at_once
    assert httpx.get(f"{server.address}/health", timeout=60, trust_env=False).status_code == 200


def test_a_limit_is_raised_as_far_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(descriptors.resource, "setrlimit", lambda kind, limits: told.append(limits))
    monkeypatch.setattr(descriptors.resource, "getrlimit", lambda kind: (64, 4096))
    assert (raise_limit(), told) == (4096, [(4096, 4096)])
    monkeypatch.setattr(descriptors.resource, "getrlimit", lambda kind: (64, 64))
    assert (raise_limit(), len(told)) == (64, 1)
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(descriptors.resource, "getrlimit", lambda kind: (unlimited, unlimited))
    assert (raise_limit(), len(told)) == (None, 1)


def test_a_process_that_may_open_hardly_a_file_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number in range(10):
        (tmp_path / str(number)).touch()
    monkeypatch.setattr(descriptors, "_OPEN", tmp_path)
    assert count_connections(64) == 64 - 10 - 16
    with pytest.raises(EngineError, match="may have 29, and has 10 open before anybody asks"):
        count_connections(29)
