"""What a system that is judged may write in place of its verdict, and what the runner makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nbformat
import pytest

from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.load import OUTCOME_MIME
from djinn_checks.suite.doubts import find_doubt
from tests.suite.runs import SAVE, alive, run
from tests.whole import row, whole

PARAMS = {"seed": 1, "sleep_s": 30.0}
STARTED = datetime.now(UTC).isoformat(timespec="seconds")
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="seconds")


HONEST = whole(params=PARAMS, started_at=STARTED)
FAILED = replace(whole(status=Status.FAIL, params=PARAMS, started_at=STARTED), summary="not fine")


def doubt(folder: Path, outcome: Outcome, shown: Outcome | None = None) -> str:
    """Return what is said against an outcome of a run whose notebook showed another, or none."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("show(outcome)")])
    if shown:
        data = {OUTCOME_MIME: shown.to_dict(), "text/plain": "shown"}
        notebook.cells[0].outputs = [nbformat.v4.new_output("display_data", data=data)]
    nbformat.write(notebook, folder / "executed.ipynb")
    file = folder / "outcome.json"
    return find_doubt(outcome, asked=PARAMS, started=STARTED, notebook=folder / "executed.ipynb", outcome_file=file)


@pytest.mark.parametrize("outcome", [HONEST, FAILED], ids=["PASS", "FAIL"])
@pytest.mark.parametrize("is_shown", [True, False], ids=["shown", "not shown"])
def test_nothing_speaks_against_what_an_honest_run_wrote(tmp_path: Path, outcome: Outcome, is_shown: bool) -> None:
    assert doubt(tmp_path, outcome, outcome if is_shown else None) == ""
    as_once = replace(outcome, params={**PARAMS, "save_to": "x.json"})
    assert doubt(tmp_path, as_once) == "", "as outcomes once said where they were saved"


@pytest.mark.parametrize(
    ("forged", "says"),
    [
        (replace(HONEST, params={**PARAMS, "sleep_s": 3.0}), "sleep_s = 3.0 and not 30.0"),
        (replace(HONEST, params={"seed": 1}), "sleep_s = None and not 30.0"),
        (replace(HONEST, params={**PARAMS, "outcome": "old.json"}), "outcome = 'old.json'"),
        (replace(HONEST, started_at=YESTERDAY), "its check began at"),
        (replace(HONEST, started_at=""), "its check began at ''"),
        (replace(HONEST, started_at="2999-01-01T00:00:00+00:00"), "its check began at '2999"),
        (replace(HONEST, started_at="2026-01-01T00:00:00"), "its check began at"),
        (replace(FAILED, status=Status.PASS), "its rows come to FAIL"),
        (replace(HONEST, criteria=()), "its rows come to INCONCLUSIVE"),
        (replace(HONEST, criteria=(replace(row("r", 0), required=False),)), "its rows come to INCONCLUSIVE"),
    ],
)
def test_an_outcome_that_is_not_this_runs_or_not_its_rows_is_not_believed(
    tmp_path: Path, forged: Outcome, says: str
) -> None:
    assert says in doubt(tmp_path, forged)


def test_a_file_that_was_written_over_after_the_notebook_showed_it_is_not_believed(tmp_path: Path) -> None:
    assert "the notebook showed FAIL (not fine)" in doubt(tmp_path, HONEST, shown=FAILED)


def test_a_notebook_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    doubt(tmp_path, HONEST)
    (tmp_path / "executed.ipynb").write_text(json.dumps({"cells": [{"outputs": [{"data": {OUTCOME_MIME: 1}}]}]}))
    file = tmp_path / "outcome.json"
    said = find_doubt(HONEST, asked=PARAMS, started=STARTED, notebook=tmp_path / "executed.ipynb", outcome_file=file)
    assert "cannot be read" in said


WRITE_AT_THE_END = """
import atexit, threading, time
from djinn_checks import show
decides = judge("decides", "It decides", 1, "==", 0, unit="", evidence="made up")
failed = replace(outcome, status=Status.FAIL, criteria=(*outcome.criteria, decides))
failed.save(save_to)
show(failed)
"""
AT_EXIT_AND_BY_A_THREAD = """
def overwrite():
    while True:
        time.sleep(0.05)
        outcome.save(save_to)
threading.Thread(target=overwrite, daemon=True).start()
time.sleep(0.2)
atexit.register(outcome.save, save_to)
"""


def test_a_verdict_that_is_written_over_behind_the_notebooks_back_is_an_error(tmp_path: Path) -> None:
    outcome = run(tmp_path, WRITE_AT_THE_END, AT_EXIT_AND_BY_A_THREAD).outcome
    assert outcome.status is Status.ERROR
    assert outcome.failure is not None
    assert outcome.failure.type == "Contradiction"
    assert "is not believed: the notebook showed FAIL" in outcome.summary
    assert outcome.criteria == ()


ESCAPE = """
import subprocess, sys
daemon = '''
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
open({pid!r}, "w").write(str(os.getpid()))
while True:
    time.sleep(0.05)
    open({later!r}, "w").write("forged")
'''
subprocess.run([sys.executable, "-I", "-c", daemon], env={{}}, check=True)
while not os.path.exists({later!r}): pass
"""


def test_a_daemon_that_has_left_its_session_and_environment_is_ended_with_the_run(tmp_path: Path) -> None:
    later, pid = tmp_path / "later.outcome.json", tmp_path / "daemon"
    result = run(tmp_path, SAVE, ESCAPE.format(pid=str(pid), later=str(later)))
    assert result.outcome.status is Status.PASS
    assert not alive(int(pid.read_text()))
    later.unlink()
    assert not later.exists()


END_THE_WARDEN = """
import signal, psutil
for parent in psutil.Process().parents():
    if "suite.warden" in " ".join(parent.cmdline()):
        os.kill(parent.pid, signal.SIGKILL)
        break
import time
time.sleep(30)
"""


def test_a_daemon_is_ended_even_if_what_looks_after_the_run_is_killed(tmp_path: Path) -> None:
    pid = tmp_path / "daemon"
    escape = ESCAPE.format(pid=str(pid), later=str(tmp_path / "later"))
    outcome = run(tmp_path, SAVE, escape, END_THE_WARDEN).outcome
    assert outcome.status is Status.ERROR
    assert outcome.failure is not None
    assert outcome.failure.type == "Killed"
    assert not alive(int(pid.read_text()))
