"""The notebooks are thin, say what their params models say, and are committed without what a run leaves in them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from djinn_checks.params import PARAMS
from djinn_checks.suite.params_folder import read_suite

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SUITES = sorted(folder for folder in (ROOT / "params").iterdir() if folder.is_dir())

SAVE_TO = ("", "File for the outcome's JSON; empty: the outcome stays in the notebook.")
"""What a notebook takes beside the parameters of its check, and says of it."""

LONGEST_LINE = 140
"""Characters of code that JupyterLab shows in a window 1,280 pixels wide; it breaks none of them."""

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def parameters(path: Path) -> dict[str, tuple[Any, str]]:
    """Return the (default, help) of each name in the cell tagged `parameters`."""
    (cell,) = [cell for cell in code(path) if "parameters" in cell.metadata.get("tags", ())]
    found = {}
    for node in ast.parse(cell.source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            line = cell.source.splitlines()[node.lineno - 1]
            found[node.target.id] = (ast.literal_eval(node.value), line.partition("  # ")[2])
    return found


def test_a_notebook_is_named_after_its_check_and_starts_with_its_parameters(path: Path) -> None:
    assert path.stem in PARAMS
    assert "parameters" in code(path)[0].metadata["tags"]
    assert read(path).metadata.kernelspec.name == "python3"


def test_the_parameters_cell_says_what_the_model_says(path: Path) -> None:
    fields = PARAMS[path.stem].model_fields
    expected = {name: (field.default, field.description) for name, field in fields.items()}
    assert parameters(path) == expected | {"save_to": SAVE_TO}


def test_no_parameter_runs_off_a_page_of_a_usual_width_with_what_it_means(path: Path) -> None:
    (cell,) = [cell for cell in code(path) if "parameters" in cell.metadata.get("tags", ())]
    assert max(len(line) for line in cell.source.splitlines()) <= LONGEST_LINE


def test_papermill_shows_every_parameter_with_its_type_and_help(path: Path) -> None:
    command = [sys.executable, "-m", "papermill", "--help-notebook", str(path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for name, field in PARAMS[path.stem].model_fields.items():
        assert re.search(rf"^  {name}: (?!Unknown).* \(default ", shown, re.MULTILINE), f"{name} has no type:\n{shown}"
        assert str(field.description) in shown
    assert re.search(r"^  save_to: str \(default ", shown, re.MULTILINE), shown
    assert SAVE_TO[1] in shown


def test_a_notebook_is_committed_without_outputs_counts_or_definitions(path: Path) -> None:
    for cell in code(path):
        assert cell.outputs == []
        assert cell.execution_count is None
        tree = ast.parse(cell.source)
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        assert not [node for node in ast.walk(tree) if isinstance(node, kinds)], "code belongs in the package"


def test_every_cell_of_a_figure_or_table_is_one_line(path: Path) -> None:
    shown = [cell.source for cell in code(path) if re.match(r"(show|plot|tabulate|render)", cell.source)]
    assert shown
    assert all("\n" not in source for source in shown)


def test_an_unknown_name_given_to_bare_papermill_is_refused_with_the_nearest_known_one(
    path: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "papermill", str(path), str(tmp_path / "out.ipynb"), "-p", "devize", "cpu"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode != 0
    assert "ParamsError" in ended.stderr
    assert re.search(r"devize: unknown name \(got 'cpu'\); did you mean 'device'\?", ended.stderr)


def test_every_suite_that_names_a_check_gives_it_possible_values(path: Path) -> None:
    suites = [folder for folder in SUITES if (folder / f"{path.stem}.yaml").is_file()]
    assert suites, f"no suite runs {path.name}"
    for suite in suites:
        (job,) = [job for job in read_suite(suite, [path.stem]) if job.name == path.stem]  # and no variant
        assert job.values == yaml.safe_load((suite / f"{path.stem}.yaml").read_text())
        assert job.notebook == path
