"""An outcome of another machine is known by what both say, and by nothing else."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest

from djinn_checks.outcome import Status
from djinn_checks.suite import machine
from djinn_checks.suite.machine import find_other_machine
from djinn_checks.suite.params_folder import read_suite
from djinn_checks.suite.runner import find_result
from tests.suite.runs import finished
from tests.whole import whole


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine with two processors of one model and two GPUs of one, and what an outcome says of it."""
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: A CPU @ 2: GHz\n\nmodel name\t: A CPU @ 2: GHz\n")
    for place in ("0000:01", "0000:02"):
        (tmp_path / "gpus" / place).mkdir(parents=True)
        (tmp_path / "gpus" / place / "information").write_text("Model: \t\t A GPU\nIRQ: 1\n")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "_GPUS", tmp_path / "gpus")
    return {"platform": platform.platform(), "cpu": {"model": "A CPU @ 2: GHz"}, "gpu": {"name": "A GPU"}}


def test_this_machines_own_outcome_is_of_this_machine(here: dict[str, Any]) -> None:
    assert find_other_machine(here) == ""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"platform": "Linux-1.0"}, "its platform is Linux-1.0"),
        ({"cpu": {"model": "Another"}}, "its processor is Another, and here it is A CPU @ 2: GHz"),
        ({"gpu": {"name": "Another"}}, "its GPU is Another, and here it is A GPU"),
    ],
)
def test_what_differs_is_named(here: dict[str, Any], changed: dict[str, Any], said: str) -> None:
    assert find_other_machine(here | changed).startswith(said)


@pytest.mark.parametrize("changed", [{"platform": None}, {"cpu": None}, {"cpu": {"model": None}}, {"gpu": None}])
def test_what_is_not_said_decides_nothing(
    here: dict[str, Any], changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_other_machine(here | changed) == ""
    monkeypatch.setattr(machine, "_CPUINFO", Path("/nowhere"))
    monkeypatch.setattr(machine, "_GPUS", Path("/nowhere"))
    assert find_other_machine(here | {"cpu": {"model": "x"}, "gpu": {"name": "x"}}) == ""


def test_resume_takes_no_outcome_of_another_machine(tmp_path: Path) -> None:
    suite, out = finished(tmp_path, a=Status.PASS)
    (job,) = read_suite(suite)
    for name, is_taken in ((platform.platform(), True), ("Linux-1.0-of-another-host", False)):
        made = whole(params=job.resolved, environment={"platform": name})
        made.save(out / "logits-a.outcome.json")
        assert (find_result(job, out) is not None) is is_taken
