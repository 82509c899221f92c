"""A server under check lives no longer than the check, and who ended it at its start is told."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any, ClassVar

import pytest

from djinn_checks.checks.agents.check import check_agents
from djinn_checks.checks.agents.connect import connect
from djinn_checks.checks.agents.server_process import ServerProcess
from djinn_checks.errors import ServerKilledError
from djinn_checks.outcome import Status
from djinn_checks.params import AgentsParams
from tests.suite.runs import alive

KILLS_ITSELF = [sys.executable, "-c", "import os, signal; print('so far', flush=True); os.kill(os.getpid(), 9)"]


def test_a_server_that_is_killed_at_its_start_is_an_error_that_says_so() -> None:
    with pytest.raises(ServerKilledError, match="ended by SIGKILL after 0 s, before it listened"):
        ServerProcess([], command=KILLS_ITSELF)
    params = AgentsParams.create(model="random:tiny", device="cpu")
    outcome = check_agents(params, server_command=KILLS_ITSELF)
    assert outcome.status is Status.ERROR
    assert outcome.failure is not None
    assert outcome.failure.type == "ServerKilledError"


STARTS_ONE = """
import os, signal, sys
from djinn_checks.checks.agents.server_process import ServerProcess
serve = "print('serving x at http://127.0.0.1:1', flush=True); import time; time.sleep(600)"
server = ServerProcess([], command=[sys.executable, "-c", serve])
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_server_ends_with_whoever_started_it_even_by_sigkill() -> None:
    run = subprocess.run([sys.executable, "-c", STARTS_ONE], capture_output=True, text=True, timeout=60)
    assert run.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while alive(int(run.stdout)):
        assert time.monotonic() < deadline, "the server outlived its check"
        time.sleep(0.05)


class _Proxy(BaseHTTPRequestHandler):
    """Answers whatever is asked of it, which nobody should."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(502)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Proxy]]:
    """Have the environment name a proxy for everything."""
    server = HTTPServer(("127.0.0.1", 0), _Proxy)
    Thread(target=server.serve_forever, daemon=True).start()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    _Proxy.asked.clear()
    yield _Proxy
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_loopback_is_asked_itself_whatever_proxy_the_environment_names(
    proxy: type[_Proxy], host: str
) -> None:
    class Itself(_Proxy):
        asked: ClassVar[list[str]] = []

        def do_GET(self) -> None:
            self.asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"sessions": []}')

    server = HTTPServer(("127.0.0.1", 0), Itself)
    Thread(target=server.serve_forever, daemon=True).start()

    async def ask(address: str) -> None:
        client = connect("idle", address)
        try:
            await client.find_routes()
        finally:
            await client.aclose()

    asyncio.run(ask(f"http://{host}:{server.server_port}"))
    server.shutdown()
    server.server_close()
    assert Itself.asked == ["/v1/sessions"]
    assert proxy.asked == []
