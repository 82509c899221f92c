"""A real server keeps its word: what it says, closes, stops and refuses over HTTP is so."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from djinn_checks.checks.agents.server_process import ServerProcess
from djinn_checks.errors import ParamsError
from djinn_checks.server.listening import listen
from djinn_checks.server.options import ServeOptions

TINY = ("--model", "random:tiny", "--device", "cpu", "--port", "0", "--idle-s", "0.2", "--session-tokens", "1020")
SESSION_IDS = st.from_regex(r"[A-Za-z0-9._:\-]{1,128}", fullmatch=True) | st.text("._:-aZ0", min_size=1, max_size=5)


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with ServerProcess(TINY) as server, httpx.Client(base_url=server.address, timeout=60) as client:
        yield client
        server.stop()
        assert server.last_output() == ""  # nothing of what was sent, and no traceback


def complete(http: httpx.Client, **body: Any) -> httpx.Response:
    return http.post("/v1/completions", json={"prompt": "x", "max_tokens": 1} | body)


def hint(name: str) -> dict[str, Any]:
    return {"agent_hint": {"session_id": name}}


def states(http: httpx.Client) -> dict[str, str]:
    return {one["id"]: one["state"] for one in http.get("/v1/sessions").json()["sessions"]}


def wait_for(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline, f"never {what}"
        time.sleep(0.01)


def test_it_listens_before_it_says_so() -> None:
    script = """
import os, signal, socket
from djinn_checks.server.options import ServeOptions
from djinn_checks.server.serve import serve

def say(text):
    host, port = text.rpartition("http://")[2].split(":")
    socket.create_connection((host, int(port)), timeout=10).close()
    print("connected", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

serve(ServeOptions(model="random:tiny", device="cpu", port=0), say=say)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert ran.stdout == "connected\n", ran.stderr


@pytest.mark.parametrize("stream", [False, True])
def test_whoever_waits_for_a_session_that_is_deleted_is_told(http: httpx.Client, stream: bool) -> None:
    answers: list[httpx.Response] = []
    body = {"max_tokens": 1000, "stream": stream, **hint("deleted")}
    asking = threading.Thread(target=lambda: answers.append(complete(http, **body)))
    asking.start()
    wait_for(lambda: states(http).get("deleted") == "ACTIVE", "active")
    assert http.delete("/v1/sessions/deleted").status_code == 200
    asking.join()
    if stream:
        events = [line[6:] for line in answers[0].text.splitlines() if line.startswith("data: ")]
        error, finish = json.loads(events[-2])["error"], [event for event in events if "finish_reason" in event]
        assert (answers[0].status_code, finish) == (200, [])
    else:
        error = answers[0].json()["error"]
        assert answers[0].status_code == 409
    assert error["code"] == "session_closed"


def test_after_a_stop_text_the_usage_and_the_timings_are_the_turn_s(http: httpx.Client) -> None:
    prompt = list(range(1, 60))
    first = complete(http, prompt=prompt, max_tokens=8, **hint("stopped")).json()
    prompt += [*first["choices"][0]["token_ids"], 5]
    ids = complete(http, prompt=prompt, max_tokens=8).json()["choices"][0]["token_ids"]
    cut = complete(http, prompt=prompt, max_tokens=8, stop=f" {ids[3]}", **hint("stopped")).json()
    assert cut["choices"][0]["finish_reason"] == "stop"
    assert cut["choices"][0]["token_ids"] == ids[: ids.index(ids[3]) + 1]
    assert cut["usage"]["prompt_tokens_details"]["cached_tokens"] == 59 + 7
    assert cut["timings"]["first_token_s"] > 0


def test_the_smallest_temperatures_take_the_most_likely_token(http: httpx.Client) -> None:
    def tokens(temperature: float) -> Any:
        answer = complete(http, max_tokens=6, temperature=temperature)
        assert answer.status_code == 200
        return answer.json()["choices"][0]["token_ids"]

    assert tokens(1e-310) == tokens(5e-324) == tokens(0)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SESSION_IDS)
@example(".")
@example("..")
@example("...")
@example("..a")
@example(":")
@example("-")
def test_every_session_that_is_accepted_can_be_listed_told_and_deleted(http: httpx.Client, name: str) -> None:
    opened = complete(http, **hint(name))
    if opened.status_code == 400:
        assert set(name) == {"."}
        assert "which a URL cannot name" in opened.json()["error"]["message"]
        return
    assert opened.status_code == 200
    assert name in states(http)
    assert http.post(f"/v1/sessions/{name}/phase", json={"phase": "COMPUTE"}).json()["id"] == name
    assert http.delete(f"/v1/sessions/{name}").json()["id"] == name
    assert name not in states(http)


CLONE_NEWNET = 0x40000000


def test_a_machine_without_a_loopback_interface_is_told_that_and_nothing_is_listened_at() -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # in a network of its own, whose loopback interface is down
        said = "no right to make a network"
        try:
            if ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0:
                said = "it listens"
                listen(ServeOptions(port=0))
        except ParamsError as error:
            said = str(error)
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.waitpid(child, 0)
    said = os.read(reading, 10_000).decode()
    os.close(reading)
    os.close(writing)
    if said.startswith("no right"):
        pytest.skip(said)
    assert "no loopback interface that is up" in said
