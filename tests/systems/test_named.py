"""A system of one's own is named as module:Class; what is wrong with it is told by its own file and line."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from djinn_checks.checks.logits.check import check_logits
from djinn_checks.cli import main
from djinn_checks.errors import ParamsError
from djinn_checks.outcome import Outcome, Status
from djinn_checks.params import LogitsParams
from djinn_checks.report.gate.annotations import list_annotations
from djinn_checks.report.gate.reports import Report
from djinn_checks.suite.given import refuse_unknown_names
from djinn_checks.systems.base import find_system
from tests.suite.runs import write_params

START = """
import torch
from djinn_checks import System


class Own(System):
    name = "own"

    def close(self):
        pass

    def open(self):
"""
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return what writes the body of `open` into a module of the working folder, and returns the module's name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write_module(body: str, start: str = START) -> str:
        name = f"own_{len(list(tmp_path.glob('own_*')))}_{tmp_path.name.rpartition('_')[2]}"
        (tmp_path / f"{name}.py").write_text(start.lstrip("\n") + textwrap.indent(textwrap.dedent(body), " " * 8))
        return name

    return write_module


def check(system: str) -> Outcome:
    return check_logits(LogitsParams.create(model="random:tiny", system=system, device="cpu", prompts=1))


def test_a_class_is_found_in_the_working_folder(write: Write) -> None:
    name = write("return None")
    assert find_system(f"{name}:Own").name == "own"
    refuse_unknown_names({"system": f"{name}:Own"})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_module_1:Own", "no module 'no_such_module_1'"),
        ("{}.part:Own", "no module"),
        ("{}:Other", "has no 'Other'"),
        ("{}:torch", "is no class that derives from djinn_checks.System"),
        ("{}:", "is no module:Class"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_in_a_sentence(name: str, says: str, write: Write) -> None:
    with pytest.raises(ParamsError, match=says):
        find_system(name.format(write("return None")))


def test_a_module_that_is_nowhere_is_exit_2_before_a_kernel_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, says in (("no_such_1.x:Own", "no module 'no_such_1'"), ("a b:Own", "is no module:Class")):
        suite = write_params(tmp_path / "suite", f"system: '{name}'\n")
        assert main(["run", str(suite), "--out", str(tmp_path / "out")]) == 2
        assert says in capsys.readouterr().err


def test_an_error_names_the_line_of_the_system_and_none_of_ours(write: Write, tmp_path: Path) -> None:
    name = write("""\
        layers = {}
        return layers["first"]
    """)
    outcome = check(f"{name}:Own")
    assert (outcome.status, outcome.failure and outcome.failure.type) == (Status.ERROR, "KeyError")
    assert outcome.failure is not None
    assert (outcome.failure.file, outcome.failure.line) == (f"{name}.py", 13)
    assert outcome.summary.endswith(f": KeyError: 'first' ({name}.py:13, in open)")
    assert Outcome.load(outcome.save(tmp_path / "x.json")) == outcome
    (line,) = list_annotations([Report(name="logits", outcome=outcome)])
    assert line.startswith(f"::error file={name}.py,line=13,title=logits%3A ERROR::own")


def test_where_a_library_raises_the_line_that_called_it_is_named(write: Write) -> None:
    name = write("""\
        def forward(input_ids, **cache):
            return torch.ones(2) @ torch.ones(3)
        return forward
    """)
    outcome = check(f"{name}:Own")
    assert outcome.status is Status.ERROR
    assert f"({name}.py:13, in forward)" in outcome.summary


def test_a_system_that_says_no_is_told_with_the_line_where_it_does(write: Write) -> None:
    name = write('raise ValueError("no room for the ring")')
    outcome = check(f"{name}:Own")
    assert outcome.status is Status.INCONCLUSIVE
    assert outcome.summary.endswith(f"no room for the ring (ValueError) ({name}.py:12, in open)")
    assert outcome.criterion("system_available").reason == outcome.summary


@pytest.mark.parametrize(
    ("start", "kind", "line"),
    [("x = 1\ndef broken(:\n", "SyntaxError", 2), ("import os\n\nimport no_such_module_2\n", "ModuleNotFoundError", 3)],
)
def test_a_module_that_cannot_be_imported_is_an_error_with_its_line(
    start: str, kind: str, line: int, write: Write
) -> None:
    name = write("", start)
    outcome = check(f"{name}:Own")
    assert outcome.failure is not None
    assert (outcome.failure.type, outcome.failure.file, outcome.failure.line) == (kind, f"{name}.py", line)
    assert f"({name}.py:{line}" in outcome.summary


def test_an_error_of_ours_names_no_line_of_anybody(write: Write) -> None:
    outcome = check(f"{write('return None')}:Own")
    assert outcome.failure is not None
    assert outcome.failure.type == "SystemContractError"
    assert (outcome.failure.file, outcome.failure.line) == ("", None)
