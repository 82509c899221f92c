"""A process that passes requests on is seen as one; a server that answers by itself is not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from djinn_checks.instruments.upstream import UpstreamWatch

PROXY = """
import socket, sys
asked = socket.create_connection(("127.0.0.1", int(sys.argv[1]))) if sys.argv[1] != "0" else None
with socket.create_server(("127.0.0.1", 0)) as listening:
    print(listening.getsockname()[1], flush=True)
    client, _ = listening.accept()
    client.recv(1)
"""


@pytest.fixture
def upstream() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepted: list[object] = []
        threading.Thread(target=lambda: accepted.append(listening.accept()), daemon=True).start()
        yield listening.getsockname()[1]


@pytest.mark.parametrize("is_proxy", [True, False])
def test_who_asks_another_process_is_a_proxy(upstream: int, is_proxy: bool) -> None:
    port = upstream if is_proxy else 0
    command = [sys.executable, "-c", PROXY, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        with socket.create_connection(("127.0.0.1", int(process.stdout.readline()))) as client:
            with UpstreamWatch(process.pid) as watch:
                deadline = time.monotonic() + (10 if is_proxy else 0.5)
                while not watch.found and time.monotonic() < deadline:
                    time.sleep(0.01)
            client.sendall(b"x")
    assert watch.found == (f"127.0.0.1:{upstream}" if is_proxy else "")
    assert ("give server_pid" in watch.reason) is is_proxy
    assert watch.reason or not is_proxy


def test_a_process_that_asks_itself_is_none() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0],
        UpstreamWatch(os.getpid()) as watch,
    ):
        time.sleep(0.2)
    assert watch.found == ""
