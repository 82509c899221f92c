"""The server does what its OpenAPI document says, with whatever a generator of requests comes up with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx

from djinn_checks.checks.agents.server_process import ServerProcess

LIMITS = ("--session-tokens", "200", "--kv-device-gb", "0.2", "--host-swap-pool-gb", "0.1", "--idle-s", "0.1")
CHECKS = "not_a_server_error,status_code_conformance,response_schema_conformance,content_type_conformance"


def test_no_generated_request_brings_a_server_error_or_an_undocumented_answer(tmp_path: Path) -> None:
    with ServerProcess(["--model", "random:tiny", "--device", "cpu", "--port", "0", *LIMITS]) as server:
        schemathesis = Path(sys.executable).parent / "schemathesis"
        command = [schemathesis, "run", f"{server.address}/openapi.json", "--max-examples", "12", "--seed", "1"]
        run = subprocess.run([*command, "--checks", CHECKS], cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert run.returncode == 0, run.stdout[-3000:]
        assert "Tested: 9" in run.stdout
        assert httpx.get(f"{server.address}/health").json()["status"] == "ok"
        left = httpx.get(f"{server.address}/v1/sessions").json()["sessions"]
        assert not [one for one in left if one["id"].startswith("anonymous")]
