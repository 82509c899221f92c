"""docs/ci.md: the files for GitHub and GitLab are ones; each line of ours in them does what the other steps expect."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from junitparser import JUnitXml

from djinn_checks.cli import main
from djinn_checks.commands import running
from djinn_checks.suite.execution import Job
from djinn_checks.suite.runner import Result
from djinn_checks.systems.base import find_system
from tests.whole import whole

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs" / "ci.md").read_text(encoding="utf-8"), re.M | re.S)
GITHUB, GITLAB = (yaml.safe_load(block) for block in BLOCKS)


def pass_all(jobs: list[Job], out: Path, **_: object) -> Iterator[Result]:
    """Stand in for `run_suite`: every job has passed, and has a page."""
    for job in jobs:
        page = out / f"{job.name}.html"
        out.mkdir(exist_ok=True)
        page.write_text("page")
        yield Result(job=job, outcome=whole(), seconds=1.0, outcome_file=out / "x", html_file=page)


def run(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a line as a step of a workflow in a checkout, and return its step's summary."""
    step = folder / "step.md"
    monkeypatch.chdir(folder)
    (folder / "params").symlink_to(ROOT / "params")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    monkeypatch.setattr(running, "run_suite", pass_all)
    command, *arguments = shlex.split(line.replace("$GITHUB_STEP_SUMMARY", str(step)))
    assert command == "djinn-checks"
    assert main(arguments) == 0
    return step.read_text() if step.exists() else ""


def lines_of(script: list[str], block: str) -> list[str]:
    """Return the lines of a script that a test runs; each other one says that none does."""
    ours = [line for line in script if line.startswith("djinn-checks ")]
    for line in set(script) - set(ours):
        assert re.search(rf"{re.escape(line)} +# not run here", block)
    return ours


def test_githubs_steps_find_what_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[dict[str, Any]] = GITHUB["jobs"]["gate"]["steps"]
    for step in steps:
        assert "uses" not in step or re.search(rf"{re.escape(step['uses'])} +# not run here", BLOCKS[0])
    (line,) = lines_of([step["run"] for step in steps if "run" in step], BLOCKS[0])
    assert "## ✅ PASS: logits (1 PASS)" in run(line, tmp_path, monkeypatch)
    after = {step["uses"].partition("@")[0]: step for step in steps[steps.index({"run": line}) + 1 :]}
    assert all(step["if"] == "always()" for step in after.values())
    junit = tmp_path / after["mikepenz/action-junit-report"]["with"]["report_paths"]
    assert JUnitXml.fromfile(str(junit)).tests > 0
    assert junit.is_relative_to(tmp_path / after["actions/upload-artifact"]["with"]["path"])
    assert GITHUB["permissions"] == {"contents": "read", "checks": "write"}


def test_gitlabs_artifacts_are_what_the_script_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = lines_of(GITLAB["gate"]["script"], BLOCKS[1])
    assert run(line, tmp_path, monkeypatch) == ""
    artifacts = GITLAB["gate"]["artifacts"]
    assert artifacts["when"] == "always"
    assert JUnitXml.fromfile(str(tmp_path / artifacts["reports"]["junit"])).tests > 0
    (folder,) = artifacts["paths"]
    assert "[logits](logits.html)" in (tmp_path / folder / "summary.md").read_text()


def test_the_example_is_the_system_that_the_page_explains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    named = yaml.safe_load((ROOT / "params" / "own" / "logits.yaml").read_text())["system"]
    assert find_system(named).name == "layer-by-layer"
    shown = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
    source = (ROOT / "params" / "own" / "streamer.py").read_text()
    assert source[source.index("class ") :] in shown
