"""The table of families in the docs is what the command prints, and a family that does not end ends nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from djinn_checks.checks import families as command
from djinn_checks.checks.families import HEADER, FamilyRow, try_families, try_family
from djinn_checks.models.tiny_configs import families

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
TABLE = PAGE.read_text().split(HEADER)[1].strip().split("\n\n")[0].splitlines()
ROWS = {line.split("|")[1].strip(): line for line in TABLE}


@pytest.mark.parametrize("family", ["llama", "mamba", "rwkv", "bert", "gemma3"])
def test_a_row_of_the_page_is_what_the_command_prints(family: str) -> None:
    assert try_family(family).line() == ROWS[family]


def test_the_page_has_every_family_and_none_is_an_error() -> None:
    assert list(ROWS) == families()
    verdicts = [line.split("|")[4:6] for line in TABLE]
    assert {cell.strip() for cells in verdicts for cell in cells} <= {"PASS", "INCONCLUSIVE", "refused", ""}
    assert sum(cell.strip() == "PASS" for cells in verdicts for cell in cells) >= 2 * 60


def test_a_family_that_takes_too_long_says_so_and_the_next_one_is_tried() -> None:
    rows = list(try_families(["llama", "gpt2"], timeout_s=0.0))
    assert [(row.family, row.reason) for row in rows] == [(name, "not done in 0 s") for name in ("llama", "gpt2")]


@pytest.mark.parametrize(
    ("verdict", "code"), [("PASS", 0), ("refused", 0), ("INCONCLUSIVE", 0), ("FAIL", 1), ("ERROR", 1)]
)
def test_the_command_prints_a_table_and_fails_only_for_what_is_wrong(
    verdict: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "try_families", lambda names: [FamilyRow(names[0], folder=verdict, reason="a | b")])
    assert command.main(["llama"]) == code
    assert capsys.readouterr().out == f"{HEADER}\n| llama |  |  |  | {verdict} | a \\| b |\n"
