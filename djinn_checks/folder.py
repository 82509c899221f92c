"""The folder of a finished suite: outcomes read back, and every page made from them. Needs no torch.

A page depends on the outcome and the executed notebook beside it, and on the outcome of planted faults if there is
one in the folder; so that it can be made anew anywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import nbformat

from djinn_checks.errors import OutcomeError, RunnerError
from djinn_checks.execution import is_notebook
from djinn_checks.outcome import Outcome, write_atomically
from djinn_checks.report.crate import FILE_NAME, describe_folder
from djinn_checks.report.faults_note import note_faults
from djinn_checks.report.html import render_html
from djinn_checks.report.index import render_index


def render_report(notebook: Path, outcome: Outcome, beside: Iterable[Outcome] = ()) -> str:
    """Render the report; a run that left no notebook still has a verdict to show.

    Args:
        beside: the outcomes in the same folder, of which those of planted faults are mentioned.
    """
    node = notebook if is_notebook(notebook) else nbformat.v4.new_notebook()
    return render_html(node, outcome, note_faults(outcome, beside))


def render_fault_notes(folder: Path) -> list[Path]:
    """Render those reports anew that mention the planted faults of their check: most are older than those are."""
    outcomes = read_outcomes(folder)
    noted = [name for name, one in outcomes.items() if note_faults(one, outcomes.values())]
    return [_render(folder, name, outcomes[name], outcomes.values()) for name in noted]


def _render(folder: Path, name: str, outcome: Outcome, beside: Iterable[Outcome]) -> Path:
    return write_atomically(folder / f"{name}.html", render_report(folder / f"{name}.ipynb", outcome, beside))


def render_folder(folder: Path) -> list[Path]:
    """Rebuild every HTML report of a finished suite from its outcomes and notebooks. Needs no torch.

    Raises:
        RunnerError: the folder holds no outcome.
        OutcomeError: one cannot be read.
    """
    files = sorted(folder.glob("*.outcome.json"))
    if not files:
        raise RunnerError(f"{folder}: expected <check>.outcome.json files of a finished suite, found none")
    outcomes = {file.name.removesuffix(".outcome.json"): Outcome.load(file) for file in files}
    written = [_render(folder, name, outcome, outcomes.values()) for name, outcome in outcomes.items()]
    return [*written, write_index(folder)]


def read_outcomes(folder: Path) -> dict[str, Outcome]:
    """Return the outcomes in a folder by name; one that cannot be read, of another version, is left out."""
    outcomes = {}
    for file in sorted(folder.glob("*.outcome.json")):
        with contextlib.suppress(OutcomeError):
            outcomes[file.name.removesuffix(".outcome.json")] = Outcome.load(file)
    return outcomes


def write_index(folder: Path) -> Path:
    """Write `index.html` from the outcomes in a folder, and the description of all its files as an RO-Crate."""
    outcomes, title = read_outcomes(folder), folder.resolve().name
    files = {name: {file.name: file.stat().st_size for file in sorted(folder.glob(f"{name}.*"))} for name in outcomes}
    index = write_atomically(folder / "index.html", render_index(title, outcomes, files))
    write_atomically(folder / FILE_NAME, describe_folder(title, outcomes, files))
    return index
