"""The examples for Slurm and Kubernetes in `docs/clusters.md`: each shard is run once, into a folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

PAGE = (Path(__file__).parents[3] / "docs" / "clusters.md").read_text(encoding="utf-8")
PARTS = 4


def block(kind: str) -> str:
    found = re.search(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what runs a shell script with variables, and says how our command line was called."""
    stand_in = tmp_path / "djinn-checks"
    stand_in.write_text('#!/bin/sh\necho "$@"\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def run(shell: str, script: str, **variables: int) -> str:
        given = os.environ | {name: str(value) for name, value in variables.items()}
        return subprocess.run(
            [shell, "-c", script], env=given, capture_output=True, text=True, check=True
        ).stdout.strip()

    return run


def test_the_job_array_runs_each_shard(said: Any) -> None:
    script = block("bash")
    assert f"#SBATCH --array=1-{PARTS}\n" in script
    called = [
        said("bash", script, SLURM_ARRAY_TASK_ID=part, SLURM_ARRAY_TASK_COUNT=PARTS) for part in range(1, PARTS + 1)
    ]
    assert called == [f"run params/full --shard {part}/{PARTS} --out fleet/{part}" for part in range(1, PARTS + 1)]


def test_the_indexed_job_runs_each_shard_once_and_never_again(said: Any) -> None:
    job = yaml.safe_load(block("yaml"))
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert (job["spec"]["completionMode"], job["spec"]["completions"]) == ("Indexed", PARTS)
    assert job["spec"]["backoffLimitPerIndex"] == 0
    assert container["command"] == ["sh", "-c"]
    called = [said("sh", container["args"][0], JOB_COMPLETION_INDEX=index) for index in range(PARTS)]
    assert called == [f"run params/full --shard {index + 1}/{PARTS} --out /reports/{index}" for index in range(PARTS)]
