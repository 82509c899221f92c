"""A real server over HTTP: OpenAI's client works unchanged, and nothing that a client does leaks a session."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from djinn_checks.checks.agents.server_process import ServerProcess
from djinn_checks.errors import SystemUnavailableError

TINY = ("--model", "random:tiny", "--device", "cpu", "--port", "0", "--idle-s", "0.2", "--session-tokens", "1020")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess([*TINY, "--max-sessions", "64"]) as running:
        yield running


@pytest.fixture
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=60) as client:
        yield client
        for session in client.get("/v1/sessions").json()["sessions"]:
            client.delete(f"/v1/sessions/{session['id']}")


@pytest.fixture
def client(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)


def hint(name: str) -> dict[str, Any]:
    return {"agent_hint": {"session_id": name}}


def sessions(http: httpx.Client) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in http.get("/v1/sessions").json()["sessions"]}


def wait_for(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline, f"never {what}"
        time.sleep(0.02)


def metric(http: httpx.Client, name: str) -> float:
    lines = http.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"djinn_checks_{name} "))


def test_the_openai_client_works_unchanged_and_a_slept_session_is_not_computed_again(
    client: openai.OpenAI, http: httpx.Client
) -> None:
    prompt = list(range(1, 60))
    first = client.completions.create(
        model="random:tiny", prompt=prompt, max_tokens=8, logprobs=2, extra_body=hint("a")
    )
    ids: list[int] = first.choices[0].token_ids  # type: ignore[attr-defined]
    assert len(ids) == len(first.choices[0].logprobs.token_logprobs) == 8  # type: ignore[union-attr,arg-type]
    wait_for(lambda: sessions(http)["a"]["state"] == "SWAPPED", "asleep")
    again = client.completions.create(
        model="random:tiny", prompt=[*prompt, *ids, 5], max_tokens=4, extra_body=hint("a")
    )
    assert again.usage.prompt_tokens_details.cached_tokens == 59 + 7  # type: ignore[union-attr]
    record = sessions(http)["a"]
    assert (record["swaps"], record["restores"]) == (1, 1)
    assert record["digest_out"] == record["digest_in"]
    assert again.timings["restore_s"] > 0  # type: ignore[attr-defined]


def test_a_stream_gives_the_same_text_as_the_whole_and_ends_with_the_usage(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="random:tiny", prompt="A tale of two caches", max_tokens=10)
    options: Any = {"include_usage": True}
    parts = list(
        client.completions.create(
            model="random:tiny", prompt="A tale of two caches", max_tokens=10, stream=True, stream_options=options
        )
    )
    *told, usage = parts
    assert "".join(part.choices[0].text for part in told) == whole.choices[0].text
    assert told[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert [part.usage for part in told] == [None] * 11
    assert len({(part.id, part.created) for part in parts}) == 1
    assert abs(usage.created - time.time()) < 3600
    assert (usage.usage, usage.choices) == (whole.usage, [])


def test_the_model_is_listed_and_retrieved_as_openais_client_does_it(client: openai.OpenAI) -> None:
    (listed,) = client.models.list().data
    assert client.models.retrieve(listed.id) == listed
    assert abs(listed.created - time.time()) < 3600
    with pytest.raises(openai.NotFoundError, match="no such model here"):
        client.models.retrieve("another")
    with pytest.raises(openai.NotFoundError, match="expected 'random:tiny'"):
        client.completions.create(model="another", prompt="x")
    with pytest.raises(openai.BadRequestError, match="no chat template; send a prompt"):
        client.chat.completions.create(model=listed.id, messages=[{"role": "user", "content": "x"}])


def test_a_field_that_only_other_servers_know_is_ignored(client: openai.OpenAI) -> None:
    known = client.completions.create(model="random:tiny", prompt="x", max_tokens=2)
    others: Any = {"cache_salt": "a", "session_id": "b", "return_token_ids": True, "ignore_eos": True}
    assert (
        client.completions.create(model="random:tiny", prompt="x", max_tokens=2, extra_body=others).choices
        == known.choices
    )


def test_a_request_without_a_session_leaves_none_behind(client: openai.OpenAI, http: httpx.Client) -> None:
    client.completions.create(model="random:tiny", prompt="x", max_tokens=2)
    assert sessions(http) == {}


def test_a_stop_text_ends_the_completion_and_is_not_part_of_it(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="random:tiny", prompt="stop", max_tokens=12).choices[0].text
    stop = whole[len(whole) // 2 :][:6]
    cut = client.completions.create(model="random:tiny", prompt="stop", max_tokens=12, stop=[stop]).choices[0]
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            {"prompt": "x", "stream_options": {"include_usage": "often"}},
            "stream_options.include_usage: Input should be",
        ),
        ({"prompt": "x", "n": 2}, "n: Input should be 1"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [10**9]}, "token ids go from 0 to"),
        ({"prompt": "x" * 2000}, "--session-tokens"),
        ({"prompt": "x", "agent_hint": {"session_id": "../x"}}, "session_id"),
        ("nonsense", "JSON"),
    ],
)
def test_bad_requests_are_refused_with_what_is_wrong(http: httpx.Client, body: Any, says: str) -> None:
    sent = body if isinstance(body, str) else json.dumps(body)
    answer = http.post("/v1/completions", content=sent, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


def test_a_body_that_is_too_large_is_refused_before_it_is_read(http: httpx.Client) -> None:
    assert http.post("/v1/completions", content=b"x" * 5_000_000).status_code == 413

    def chunks() -> Iterator[bytes]:
        yield from (b"x" * 1_000_000 for _ in range(6))

    assert http.post("/v1/completions", content=chunks()).status_code == 413


def test_unknown_sessions_are_404_and_a_busy_one_429(http: httpx.Client) -> None:
    assert http.delete("/v1/sessions/nobody").status_code == 404
    assert http.post("/v1/sessions/nobody/phase", json={"phase": "IO_WAIT"}).status_code == 404
    body = {"prompt": "x", "max_tokens": 1000, "stream": True, **hint("busy")}
    with http.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        refused = http.post("/v1/completions", json={"prompt": "x", **hint("busy")})
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_turn(http: httpx.Client, server: ServerProcess, stream: bool) -> None:
    turns = metric(http, "turns_total")
    body = {"prompt": "x", "max_tokens": 1000, "stream": stream}
    with httpx.Client(base_url=server.address, timeout=0.5) as leaving:
        if stream:
            with leaving.stream("POST", "/v1/completions", json=body) as answer:
                lines = answer.iter_lines()
                next(lines)
        else:
            with pytest.raises(httpx.ReadTimeout):
                leaving.post("/v1/completions", json=body)
    wait_for(lambda: metric(http, "turns_total") == turns + 1 and not sessions(http), "ended")


def test_a_client_that_is_killed_leaves_no_session_without_a_name(http: httpx.Client, server: ServerProcess) -> None:
    script = (
        f"import httpx; asked = httpx.stream('POST', '{server.address}/v1/completions', json={{'prompt': 'x', "
        "'max_tokens': 1000, 'stream': True}); lines = asked.__enter__().iter_lines(); "
        "print(next(lines), flush=True); input()"
    )
    killed = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    killed.stdout.readline()
    assert len(sessions(http)) == 1
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    wait_for(lambda: not sessions(http), "closed")


def test_two_hundred_sessions_opened_and_dropped_leave_nothing(http: httpx.Client) -> None:
    def visit(number: int) -> int:
        name, status = f"s{number}", 429
        while status == 429:
            status = http.post("/v1/completions", json={"prompt": "x", "max_tokens": 2, **hint(name)}).status_code
        http.delete(f"/v1/sessions/{name}")
        return status

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(visit, range(200))) == {200}
    assert sessions(http) == {}
    wait_for(lambda: metric(http, "kv_device_bytes") == metric(http, "kv_host_bytes") == 0, "empty")


def test_one_session_too_many_is_429(http: httpx.Client) -> None:
    codes = [http.post("/v1/completions", json={"prompt": "x", **hint(f"s{n}")}).status_code for n in range(65)]
    assert codes == [200] * 64 + [429]


def test_a_full_host_pool_is_a_declared_capacity_error_and_loses_nobody() -> None:
    pool = ("--kv-device-gb", "0.0045", "--host-swap-pool-gb", "0.004", "--idle-s", "30")
    with (
        ServerProcess([*TINY, *pool]) as small,
        httpx.Client(base_url=small.address, timeout=60) as http,
    ):
        token_bytes = http.get("/health").json()["kv_token_bytes"]
        assert token_bytes * 900 > 1.3e6
        prompt = [1 + one % 200 for one in range(900)]
        texts, codes = {}, []
        for number in range(6):
            answer = http.post("/v1/completions", json={"prompt": prompt[number:], **hint(f"s{number}")})
            codes.append(answer.status_code)
            if answer.status_code == 200:
                texts[f"s{number}"] = (prompt[number:], answer.json()["choices"][0]["token_ids"])
            else:
                assert answer.json()["error"]["code"] == "kv_capacity"
        assert codes.count(200) >= 3
        assert set(codes) == {200, 503}
        for name in list(texts)[:-2]:
            sent, ids = texts.pop(name)
            http.delete(f"/v1/sessions/{list(texts)[-1]}")
            again = http.post("/v1/completions", json={"prompt": [*sent, *ids], "max_tokens": 1, **hint(name)})
            assert again.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == len(sent) + len(ids) - 1
            break


def test_nothing_of_a_prompt_reaches_the_log_and_a_server_ends_cleanly_after_running_requests() -> None:
    secret = "swordfish"
    with ServerProcess(TINY) as server:
        with httpx.Client(base_url=server.address, timeout=30) as http:
            http.post("/v1/completions", json={"prompt": secret, **hint("a")})
            http.post("/v1/completions", json={"prompt": secret * 1000})
            http.post("/v1/completions", content=f"{{{secret}")
            http.get(f"/{secret}")
            answers: list[httpx.Response] = []
            body = {"prompt": "x", "max_tokens": 100}
            asking = threading.Thread(
                target=lambda: answers.append(httpx.post(f"{server.address}/v1/completions", json=body, timeout=60))
            )
            asking.start()
            wait_for(lambda: any(name.startswith("anonymous") for name in sessions(http)), "begun")
        assert server.stop() == 0
        asking.join()
        assert answers[0].status_code == 200
        assert server.last_output() == ""


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(SystemUnavailableError, match="exit status 2.*no such shape"):
        ServerProcess(["--model", "random:nothing", "--port", "0"])


def test_the_address_of_another_is_refused_before_anything_is_loaded(server: ServerProcess) -> None:
    port = server.address.rsplit(":", 1)[1]
    with pytest.raises(SystemUnavailableError, match="--port 0 for a free one"):
        ServerProcess(["--model", "random:no-such-shape", "--port", port])
