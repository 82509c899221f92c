"""On a CPU a server gives back what its forwards have freed, and not its KV alone."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import httpx
import psutil
import pytest
import torch

from djinn_checks.faults.agents.defects import nothing
from djinn_checks.faults.agents.nursery import nursery
from djinn_checks.faults.agents.runs import _options, _profile
from djinn_checks.instruments.server_memory import find_listener

_ONE_RESULT = 480 * 64 * 64 * 4
"""Bytes of the queries of 480 tokens: one of the dozens of results that a forward leaves behind."""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library cannot be told")
def test_a_longer_session_leaves_nothing_of_its_forwards_behind(tmp_path: Path) -> None:
    """In a heap it would be some 40 MB."""
    options = _options(_profile(tmp_path, torch.device("cpu"), crowd=False))
    with (
        nursery().serve(f"{nothing.__module__}:{nothing.__name__}", 0.0, options) as address,
        httpx.Client(base_url=address, timeout=60) as http,
    ):
        server = psutil.Process(find_listener(address))
        open_and_close(http, tokens=112)
        time.sleep(0.3)
        before, deadline = server.memory_info().rss, time.monotonic() + 20
        open_and_close(http, tokens=480)
        while server.memory_info().rss > before + _ONE_RESULT:
            more = server.memory_info().rss - before
            assert time.monotonic() < deadline, f"{more / 1e6:.1f} MB more than after a shorter session"
            time.sleep(0.05)


def open_and_close(http: httpx.Client, *, tokens: int) -> None:
    body = {"prompt": list(range(1, tokens + 1)), "max_tokens": 4, "agent_hint": {"session_id": "a"}}
    assert http.post("/v1/completions", json=body).status_code == 200
    assert http.delete("/v1/sessions/a").status_code == 200
