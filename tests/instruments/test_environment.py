"""The environment names what a reader needs to repeat a run, and nothing that is nobody's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from djinn_checks.instruments import environment
from djinn_checks.instruments.environment import read_environment

CPU = torch.device("cpu")


def git(folder: Path, *arguments: str) -> str:
    names = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    command = ["git", "-C", str(folder), *names, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Someone's own system, registered by entry point and run from a checkout of its own."""
    facts = tmp_path / "streamer_of_mine-1.2.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: streamer-of-mine\nVersion: 1.2\n")
    (facts / "entry_points.txt").write_text("[djinn_checks.systems]\nmine = streamer_of_mine:MySystem\n")
    (tmp_path / "streamer_of_mine.py").write_text("raise RuntimeError('reading where it lies does not import it')\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "streamer_of_mine.py")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_checked_system_is_named_with_its_package_version_commit_and_changes(installed: Path) -> None:
    commit = git(installed, "rev-parse", "HEAD")
    expected: dict[str, Any] = {"name": "mine", "package": "streamer-of-mine", "version": "1.2"}
    assert read_environment(CPU, system="mine")["system"] == expected | {"source": {"commit": commit, "dirty": False}}
    (installed / "streamer_of_mine.py").write_text("changed = True\n")
    assert read_environment(CPU, system="mine")["system"]["source"] == {"commit": commit, "dirty": True}


def test_a_system_that_pip_took_from_a_repository_has_the_commit_that_pip_wrote_down(installed: Path) -> None:
    origin = {"url": "https://example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc123"}}
    (installed / "streamer_of_mine-1.2.dist-info" / "direct_url.json").write_text(json.dumps(origin))
    assert read_environment(CPU, system="mine")["system"]["source"] == {"commit": "abc123", "dirty": False}


def test_a_file_that_git_does_not_know_has_no_commit_of_the_checkout_it_lies_in(installed: Path) -> None:
    git(installed, "rm", "--quiet", "--cached", "streamer_of_mine.py")
    assert read_environment(CPU, system="mine")["system"]["source"] is None


def test_a_wrapped_system_is_the_package_that_it_wraps_and_an_unknown_one_is_unknown() -> None:
    assert read_environment(CPU, system="accelerate")["system"]["package"] == "accelerate"
    assert read_environment(CPU, system="ring")["system"]["package"] == "djinn-checks"
    assert read_environment(CPU, system="djinn-checks serve")["system"]["package"] == "djinn-checks"
    assert read_environment(CPU, system="http://127.0.0.1:1")["system"] is None


def test_machine_and_software_are_named() -> None:
    found = read_environment(CPU)
    assert {"ram_bytes", "swap_bytes", "locked_memory_limit_bytes"} <= set(found["memory"])
    assert {"model", "cores", "threads", "allowed_threads", "numa_nodes_online"} <= set(found["cpu"])
    assert found["packages"]["torch"] == torch.__version__
    assert f"torch=={torch.__version__}" in found["installed"]
    assert found["python"] == sys.version.split()[0]
    assert found["gpu"] is None


def test_variables_are_taken_from_a_list_and_no_secret_is_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "USER", "HOME", "HOSTNAME"):
        monkeypatch.setenv(name, "nobodys-business")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = read_environment(CPU)
    assert found["variables"]["OMP_NUM_THREADS"] == "3"
    assert "nobodys-business" not in json.dumps(found)


def test_a_gpu_is_named_with_its_driver_link_and_numa_node(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, total_memory, major, minor, uuid = "Example GPU", 80 * 10**9, 9, 0, "1234"

    link = {"generation": 5, "width": 16, "max_generation": 5, "max_width": 16}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(environment.nvml.pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(environment.nvml.pynvml, "nvmlShutdown", lambda: None)
    for name, value in (("find_handle", "handle"), ("read_link", link), ("read_numa_node", 1)):
        monkeypatch.setattr(environment.nvml, name, lambda _, value=value: value)
    monkeypatch.setattr(environment.nvml, "read_device", lambda _: {"name": "Example GPU", "driver": "580.1"})
    gpu = read_environment(torch.device("cuda:0"))["gpu"]
    assert (gpu["name"], gpu["driver"], gpu["pcie"], gpu["numa_node"]) == ("Example GPU", "580.1", link, 1)
