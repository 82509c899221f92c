"""Who comes over loopback asks for loopback, or for a name that the server was given."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from djinn_checks.server.listening import is_loopback
from tests.server.fake_engine import FakeEngine, application, tiny

MODEL = tiny()
LOOPBACK = ("localhost", "LOCALHOST:5556", "127.0.0.1:80", "127.1.2.3", "[::1]:1", "localhost.", None)


def ask(host: str | None, *, at: str = "127.0.0.1", also: tuple[str, ...] = ()) -> httpx.Response:
    """Ask an application that was connected to at an address for something by the name of a host."""
    app = application(FakeEngine(), MODEL, hosts=also)

    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{at}:5556") as http:
            request = http.build_request("GET", "/health", headers={} if host is None else {"host": host})
            if host is None:
                del request.headers["host"]
            return await http.send(request)

    return asyncio.run(get())


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:5556", "127.0.0.1:80", "127.1.2.3", "[::1]:1", "localhost.", None]
)
def test_loopback_is_answered_under_its_own_names(host: str | None) -> None:
    assert ask(host).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:5556", "0.0.0.0", "localhost.evil.example", "x" * 9999])
def test_another_name_over_loopback_is_refused_with_a_sentence(host: str) -> None:
    answer = ask(host)
    assert answer.status_code == 421
    said = answer.json()["error"]["message"]
    assert "--allow-host" in said
    assert len(said) < 300


def test_a_name_that_it_was_given_is_answered_and_so_is_any_name_from_elsewhere() -> None:
    assert ask("Agents.example:80", also=("agents.example",)).status_code == 200
    assert ask("evil.example", also=("agents.example",)).status_code == 421
    assert ask("any.example", at="192.0.2.7").status_code == 200


def test_what_is_loopback_is_known_without_asking_anybody() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "a.localhost", "LocalHost."]))
    assert not any(map(is_loopback, ["0.0.0.0", "10.0.0.1", "127.0.0.1.example", "localhost.example", "", "1"]))
