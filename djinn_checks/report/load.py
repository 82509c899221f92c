"""Outcomes read back: from their own JSON file, or from the executed notebook that showed them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from djinn_checks.bounded import parse_json, read_text
from djinn_checks.errors import OutcomeError
from djinn_checks.outcome import Outcome

OUTCOME_MIME = "application/vnd.djinn-checks.outcome+json"
"""Under this type `show` embeds the outcome in a notebook's output."""


def load_outcome(path: str | os.PathLike[str]) -> Outcome:
    """Read the outcome of a check from its JSON file or from an executed notebook (.ipynb).

    Raises:
        OutcomeError: the file cannot be read, holds no outcome, or holds one of another schema.
    """
    source = Path(path)
    if source.suffix != ".ipynb":
        return Outcome.load(source)
    try:
        outcome = find_outcome(_read_notebook(source))
    except OutcomeError as error:
        told = str(error)
        raise OutcomeError(told if str(source) in told else f"notebook {source}: {told}") from None
    if outcome is None:
        raise OutcomeError(
            f"notebook {source}: no output carries an outcome ({OUTCOME_MIME}); was it run as far as show(outcome)?"
        )
    return outcome


def find_outcome(notebook: Mapping[str, Any]) -> Outcome | None:
    """Return the last outcome that an executed notebook (nbformat 4) shows, or None.

    Raises:
        OutcomeError: an output claims to be an outcome and cannot be read as one.
    """
    found: Outcome | None = None
    for cell in _list_mappings(notebook.get("cells")):
        for output in _list_mappings(cell.get("outputs")):
            if carries_outcome(output):
                found = Outcome.from_dict(_decode(output["data"][OUTCOME_MIME]))
    return found


def _list_mappings(value: Any) -> list[Mapping[str, Any]]:
    """Return what is a mapping in a list: a notebook from elsewhere may hold anything."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def carries_outcome(output: Mapping[str, Any]) -> bool:
    """Tell whether a notebook output embeds an outcome."""
    data = output.get("data")
    return isinstance(data, Mapping) and OUTCOME_MIME in data


def _read_notebook(path: Path) -> Mapping[str, Any]:
    try:
        notebook = parse_json(read_text(path))
    except OSError as error:
        raise OutcomeError(f"notebook {path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise OutcomeError(f"notebook {path}: is not JSON ({error}); was it cut short?") from error
    if not isinstance(notebook, Mapping) or notebook.get("nbformat") != 4:
        raise OutcomeError(f"notebook {path}: expected a notebook of nbformat 4; was it saved by an older Jupyter?")
    return notebook


def _decode(value: Any) -> Any:
    """A JSON output is stored as data, or by some tools as text or lines of text."""
    text = "".join(map(str, value)) if isinstance(value, list) else value
    if not isinstance(text, str):
        return text
    try:
        return parse_json(text)
    except ValueError as error:
        raise OutcomeError(f"outcome in a notebook: is not JSON ({error})") from error
