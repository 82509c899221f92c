"""The kernel is our own: this interpreter, this package, no ports, whatever the user has installed elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import djinn_checks
from djinn_checks.outcome import Status
from djinn_checks.suite.kernel import SCRATCH, OwnKernelManager
from tests.suite.runs import SAVE, run

TELL = """
import sys, torch, djinn_checks
from ipykernel.kernelapp import IPKernelApp
app = IPKernelApp.instance()
print(f"told: {sys.executable} {djinn_checks.__file__} {app.transport} {'INTRUDER' in globals()}")
"""


def test_a_kernelspec_of_the_users_and_what_lies_in_the_working_folder_have_no_part_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    work = tmp_path / "work"
    for folder in (spec, startup, work / "djinn_checks", work / "papermill"):
        folder.mkdir(parents=True)
    argv = ["/bin/false", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "x", "language": "python"}))
    (startup / "00.py").write_text("INTRUDER = 1")
    (tmp_path / "startup.py").write_text("INTRUDER = 1")
    (work / "djinn_checks" / "__init__.py").write_text("raise SystemExit('another package')")
    (work / "papermill" / "__init__.py").write_text("raise SystemExit('another package')")
    (work / "torch.py").write_text("raise SystemExit('another torch')")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "startup.py"))
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend("")  # as `python -m` has it
    result = run(tmp_path, SAVE, TELL)
    log = (tmp_path / "out" / "logits.log").read_text()
    assert result.outcome.status is Status.PASS, log
    assert f"told: {sys.executable} {djinn_checks.__file__} ipc False" in log
    assert "TCP" not in log, "nothing to be warned of"


@pytest.mark.parametrize(("length", "transport"), [(20, "ipc"), (120, "tcp")])
def test_a_folder_whose_sockets_paths_would_be_too_long_is_spoken_to_through_ports(
    monkeypatch: pytest.MonkeyPatch, length: int, transport: str
) -> None:
    monkeypatch.setenv(SCRATCH, "/" + "x" * length)
    assert OwnKernelManager().transport == transport
