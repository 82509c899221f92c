"""What the READMEs say of the reference reports is what their outcomes say."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from djinn_checks.cli import main
from djinn_checks.errors import OutcomeError
from djinn_checks.outcome import Outcome, judge
from djinn_checks.report.suite.compare import compare_suites, summarize_changes
from djinn_checks.report.suite.results import render_results, render_verdicts
from djinn_checks.suite.folder import read_outcomes
from tests.whole import whole

ROOT = Path(__file__).parents[3]
BLOCK = re.compile(r"<!-- results of (\S+) -->\n(.*?)<!-- end of results -->", re.DOTALL)
FOLDERS = sorted({file.parent for file in ROOT.glob("reports/h*-*/*.outcome.json")})


def blocks(file: Path) -> dict[str, str]:
    """Return the generated tables in a README, by the folder that they are about, without the space around them."""
    return {folder: text.strip() for folder, text in BLOCK.findall(file.read_text(encoding="utf-8"))}


def outcome(**changed: object) -> Outcome:
    row = judge("wake_p99", "First token | soon", 0.158, "<=", 2.0, unit="s", evidence="a clock")
    made = whole("agents", summary="80 agents at once")
    return replace(made, **{"criteria": (row, *made.criteria)} | changed)  # type: ignore[arg-type]


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


def test_words_from_outside_are_no_link_no_emphasis_and_no_control_of_a_terminal() -> None:
    hostile = "[x](y) **b** _c_ kv_left `d` ~~e~~ \\ &lt; http://a.b www.a.b a@b.c \x1b[2J\u202eSSAP"
    text = render_verdicts("reports/a", {"agents": outcome(summary=hostile)})
    assert (
        "\\[x\\](y) \\*\\*b\\*\\* \\_c\\_ kv_left \\`d\\` \\~\\~e\\~\\~ \\\\ &amp;lt; http\\://a.b www\\.a.b a\\@b.c "
        "\\\\x1b\\[2J\\\\u202eSSAP" in text
    )
    assert "| [a\\](x)](reports/a/a%5D%28x%29.html) |" in render_verdicts("reports/a", {"a](x)": outcome()})


def test_a_folder_without_outcomes_is_refused_by_name() -> None:
    with pytest.raises(OutcomeError, match="reports/a: expected"):
        render_results("reports/a", {})


def test_the_command_prints_the_same_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome().save(tmp_path / "agents-many.outcome.json")
    assert main(["results", str(tmp_path)]) == 0
    assert capsys.readouterr().out == render_results(os.path.relpath(tmp_path), {"agents-many": outcome()})


def test_the_front_page_has_the_verdicts_alone() -> None:
    outcomes = {"agents-many": outcome()}
    assert render_results("a", outcomes).startswith(render_verdicts("a", outcomes))
    assert "First token" not in render_verdicts("a", outcomes)


def test_links_from_within_the_folder_are_the_files_names() -> None:
    assert "| [agents](agents.html) |" in render_verdicts(".", {"agents": outcome()})


def test_there_are_reference_reports() -> None:
    assert FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_figures_in_a_folders_readme_are_those_of_its_outcomes(folder: Path) -> None:
    assert blocks(folder / "README.md") == {".": render_results(".", read_outcomes(folder)).strip()}


def test_the_verdicts_on_the_front_page_are_those_of_the_reference_reports() -> None:
    shown = blocks(ROOT / "README.md")
    assert shown
    for name, text in shown.items():
        assert ROOT / name in FOLDERS
        assert text == render_verdicts(name, read_outcomes(ROOT / name)).strip()


def test_a_folders_readme_says_of_a_second_run_what_compare_says() -> None:
    seconds = [folder / "again" for folder in FOLDERS if (folder / "again").is_dir()]
    assert seconds
    for second in seconds:
        text = (second.parent / "README.md").read_text(encoding="utf-8")
        first, again = read_outcomes(second.parent), read_outcomes(second)
        assert f'"{summarize_changes(compare_suites(first, again))}"' in text
        commits = {ran.environment["source"]["commit"] for ran in (*first.values(), *again.values())}
        assert len(commits) == 1, "two runs of different code say nothing about the machine"
