"""Which files of a folder belong to which run: by the run's whole name and what a run can leave, never by a pattern.

A name may hold dots, brackets and stars. No two names share a file: whatever follows `<name>.` in full is in a list,
or is a table of samples, whose own name holds no dot, or the readings of one GPU of several, by its number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from djinn_checks.errors import OutcomeError
from djinn_checks.outcome import Outcome
from djinn_checks.outcome.fields import make_encodable

OUTCOME = ".outcome.json"
_ENDINGS = (OUTCOME, ".html", ".ipynb", ".params.yaml", ".log", ".samples.csv.gz", ".samples.json.gz")
_FRAME = re.compile(r"\.samples\.([^.]+\.csv|[0-9]+\.csv\.gz)")


@dataclass(frozen=True, kw_only=True)
class FinishedSuite:
    """The outcomes in a folder, by the names of their runs."""

    outcomes: dict[str, Outcome]
    unreadable: dict[str, str]
    """Why an outcome that is there cannot be read: it is cut short, or of another version."""


def read_finished(folder: Path) -> FinishedSuite:
    """Return what a folder holds of a finished suite; a missing folder holds nothing."""
    outcomes, unreadable = {}, {}
    for name in list_names(folder):
        file = folder / f"{name}{OUTCOME}"
        shown = make_encodable(name)
        if shown != name:
            unreadable[shown] = "its name is not UTF-8; rename it"
            continue
        try:
            outcomes[name] = Outcome.load(file)
        except OutcomeError as error:
            unreadable[name] = f"{file.name} cannot be read: {_without(str(file), str(error))}"
    return FinishedSuite(outcomes=outcomes, unreadable=unreadable)


def _without(path: str, said: str) -> str:
    """Return what was said of a file without its path: whoever tells it has named the folder."""
    return said.removeprefix(f"{path}: ")


def list_names(folder: Path) -> list[str]:
    """Return the names of the runs that left an outcome in a folder."""
    return sorted(file.name.removesuffix(OUTCOME) for file in folder.glob(f"*{OUTCOME}"))


def list_files(folder: Path, name: str) -> list[Path]:
    """Return the files that a run of this name left in a folder."""
    return sorted(file for file in folder.iterdir() if is_file_of(name, file.name)) if folder.is_dir() else []


def is_file_of(name: str, file: str) -> bool:
    """Tell whether a file of this name is one that a run leaves."""
    ending = file.removeprefix(name)
    return file.startswith(name) and (ending in _ENDINGS or _FRAME.fullmatch(ending) is not None)
