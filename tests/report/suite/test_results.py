"""What the README says of the reference reports is what their outcomes say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from djinn_checks.cli import main
from djinn_checks.errors import OutcomeError
from djinn_checks.outcome import Outcome, Status, judge
from djinn_checks.report.suite.compare import compare_suites, summarize_changes
from djinn_checks.report.suite.results import render_results
from djinn_checks.suite.folder import read_outcomes

ROOT = Path(__file__).parents[3]
BLOCK = re.compile(r"<!-- results of (\S+) -->\n(.*?)<!-- end of results -->", re.DOTALL)


def outcome(**changed: object) -> Outcome:
    row = judge("wake_p99", "First token | soon", 0.158, "<=", 2.0, unit="s", evidence="a clock")
    made = Outcome(check="agents", status=Status.PASS, summary="80 agents at once", criteria=(row,))
    return replace(made, **changed)  # type: ignore[arg-type]


def test_a_figure_stands_beside_its_bar_and_its_report() -> None:
    text = render_results("reports/a", {"agents-many": outcome()})
    assert "| [agents-many](reports/a/agents-many.html) | **PASS** | 80 agents at once | unknown |" in text
    cells = "First token \\| soon | 0.158 s | at most 2 s | **PASS** |"
    assert f"| [agents-many](reports/a/agents-many.html) | {cells}" in text


def test_each_report_names_its_own_commit() -> None:
    outcomes = {
        name: outcome(environment={"source": {"commit": commit * 40, "dirty": commit == "b"}})
        for name, commit in (("agents", "a"), ("agents-many", "b"))
    }
    text = render_results("reports/a", outcomes)
    assert f"| [agents](reports/a/agents.html) | **PASS** | 80 agents at once | {'a' * 10} |" in text
    many = "| [agents-many](reports/a/agents-many.html) | **PASS** | 80 agents at once |"
    assert f"{many} {'b' * 10} and changes |" in text


def test_what_came_from_outside_breaks_no_table_and_is_no_markup() -> None:
    text = render_results("reports/a", {"agents": outcome(summary="a | b\n<script>")})
    assert "a \\| b &lt;script>" in text


def test_a_folder_without_outcomes_is_refused_by_name() -> None:
    with pytest.raises(OutcomeError, match="reports/a: expected"):
        render_results("reports/a", {})


def test_the_command_prints_the_same_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome().save(tmp_path / "agents-many.outcome.json")
    assert main(["results", str(tmp_path)]) == 0
    assert capsys.readouterr().out == render_results(str(tmp_path), {"agents-many": outcome()})


def test_the_figures_in_the_readme_are_those_of_the_reference_reports() -> None:
    blocks = dict(BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    folders = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("reports/h*-*/*.outcome.json")}
    assert set(blocks) == folders
    for folder, text in blocks.items():
        assert text.strip() == render_results(folder, read_outcomes(ROOT / folder)).strip()


def test_the_readme_says_of_a_second_run_what_compare_says() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    seconds = sorted({file.parent for file in ROOT.glob("reports/h*-*/again/*.outcome.json")})
    assert seconds
    for second in seconds:
        first, again = read_outcomes(second.parent), read_outcomes(second)
        assert f'"{summarize_changes(compare_suites(first, again))}"' in text
        commits = {one.environment["source"]["commit"] for one in (*first.values(), *again.values())}
        assert len(commits) == 1, "two runs of different code say nothing about the machine"
