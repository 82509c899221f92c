"""Suites to run, and runs that are finished: with a notebook made for the purpose and a real kernel, or made up."""

from __future__ import annotations

from pathlib import Path

import nbformat
import psutil

from djinn_checks.outcome import Status
from djinn_checks.suite.execution import Job
from djinn_checks.suite.params_folder import read_suite
from djinn_checks.suite.runner import Result, run_job
from tests.whole import whole

WRITE = """
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from djinn_checks.outcome import Outcome, Status, judge
Path({pid!r}).write_text(str(os.getpid()))
now = datetime.now(UTC).isoformat(timespec="seconds")
outcome = replace(Outcome.load({made!r}), started_at=now)
"""
SAVE = "outcome.save(save_to)"
TRACE = Path(__file__).parents[1] / "data" / "traces" / "ring.csv.gz"


def run(
    tmp_path: Path, *cells: str, timeout_s: float = 60.0, cell_timeout_s: int | None = None, out: Path | None = None
) -> Result:
    first = nbformat.v4.new_code_cell("save_to = ''\n", metadata={"tags": ["parameters"]})
    prepare = nbformat.v4.new_code_cell(
        WRITE.format(pid=str(tmp_path / "pid"), made=str(whole().save(tmp_path / "made.json")))
    )
    code = [nbformat.v4.new_code_cell(cell) for cell in cells]
    notebook = nbformat.v4.new_notebook(cells=[first, prepare, *code])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = tmp_path / "logits.ipynb"
    nbformat.write(notebook, path)
    job = Job(name="logits", check="logits", params_file=tmp_path / "logits.yaml", notebook=path, values={})
    result = run_job(job, out or tmp_path / "out", timeout_s=timeout_s, cell_timeout_s=cell_timeout_s)
    assert not alive(int((tmp_path / "pid").read_text())), "the kernel outlived its run"
    return result


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def write_params(folder: Path, text: str, name: str = "logits.yaml") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder


def finished(tmp_path: Path, **statuses: Status) -> tuple[Path, Path]:
    """Return a suite of one check for each status, and a folder in which they have come out so."""
    suite, out = tmp_path / "suite", tmp_path / "out"
    for name, status in statuses.items():
        write_params(suite, "seed: 1\n", f"logits-{name}.yaml")
        params = read_suite(suite, [f"logits-{name}"])[0].resolved
        whole(status=status, summary=name, params=params).save(out / f"logits-{name}.outcome.json")
        (out / f"logits-{name}.html").write_text("page")
    return suite, out
