"""Outcomes come back from both places where a check leaves them, and nothing else passes for one."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from djinn_checks.errors import OutcomeError
from djinn_checks.report.load import OUTCOME_MIME, find_outcome, load_outcome
from tests.report import samples


def test_an_outcome_is_read_from_its_json_and_from_its_notebook(tmp_path: Path) -> None:
    outcome = samples.failed()
    outcome.save(tmp_path / "logits.json")
    nbformat.write(samples.executed_notebook(outcome), tmp_path / "logits.ipynb")
    for name in ("logits.json", "logits.ipynb"):
        assert load_outcome(tmp_path / name).to_dict() == outcome.to_dict()


def test_the_last_outcome_of_a_notebook_counts() -> None:
    notebook = samples.executed_notebook(samples.passed())
    notebook.cells += samples.executed_notebook(samples.failed()).cells
    found = find_outcome(notebook)
    assert found is not None
    assert found.status == "FAIL"


def test_an_outcome_stored_as_text_is_read_too() -> None:
    notebook = samples.executed_notebook(samples.passed())
    data = notebook.cells[1].outputs[0]["data"]
    data[OUTCOME_MIME] = json.dumps(data[OUTCOME_MIME]).splitlines(keepends=True)
    assert find_outcome(notebook) is not None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "nbformat 4"),
        ('{"nbformat": 3}', "nbformat 4"),
        ('{"nbformat": 4, "cells": []}', "no output carries an outcome"),
    ],
)
def test_a_notebook_without_an_outcome_is_refused(tmp_path: Path, content: str | None, complaint: str) -> None:
    path = tmp_path / "x.ipynb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OutcomeError, match=complaint):
        load_outcome(path)


def test_an_outcome_of_another_schema_is_refused() -> None:
    notebook = samples.executed_notebook(samples.passed())
    notebook.cells[1].outputs[0]["data"][OUTCOME_MIME] = {"schema": "other/9"}
    with pytest.raises(OutcomeError, match="another version"):
        find_outcome(notebook)
