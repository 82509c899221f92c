"""Two suites are laid side by side, what changed first."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from djinn_checks.cli import main
from djinn_checks.commands.compare import tell_quantity
from djinn_checks.outcome import Outcome, Status, judge, settle
from djinn_checks.report.suite.compare import compare_suites, summarize_changes
from djinn_checks.report.suite.compare_page import render_comparison


def outcome(observed: float, check: str = "pcie", *, unit: str = "share", comparison: str = ">=") -> Outcome:
    rows = (
        judge("share", "", observed, comparison, 0.9, unit=unit, evidence=""),
        judge("count", "", 7, "==", 7, unit="", evidence="", required=False),
    )
    return Outcome(check=check, status=settle(rows), summary="", criteria=rows)


def test_what_changed_its_status_comes_first_with_both_figures() -> None:
    rows = compare_suites({"pcie": outcome(0.99)}, {"pcie": outcome(0.5)})
    assert [(row.criterion, row.old, row.new, row.changed) for row in rows] == [
        ("", Status.PASS, Status.FAIL, True),
        ("share", Status.PASS, Status.FAIL, True),
        ("count", Status.PASS, Status.PASS, False),
    ]
    assert rows[1].ratio == pytest.approx(0.5 / 0.99)
    assert rows[2].ratio == 1.0


@pytest.mark.parametrize(
    ("old", "new", "moved"),
    [
        (0.99, 0.985, 0),
        (0.99, 0.975, 1),
        (0.0, 0.0, 0),
        (0.0, 1e-6, 1),
        (1.0, float("inf"), 1),
        (float("inf"), float("inf"), 0),
    ],
)
def test_a_figure_has_moved_from_one_percent_up_and_from_zero_at_once(old: float, new: float, moved: int) -> None:
    rows = compare_suites({"pcie": outcome(old)}, {"pcie": outcome(new)})
    assert summarize_changes(rows).endswith(
        f"{moved} of 1 ratios and 0 of 1 times, sizes and counts differ by more than 1 %."
    )


@pytest.mark.parametrize(
    ("old", "new", "moved"),
    [(2e-6, 8e-6, False), (0.0, 0.004, False), (0.01, 0.03, True), (0.0, float("inf"), True)],
)
def test_a_share_that_has_to_stay_small_moves_by_parts_of_the_whole(old: float, new: float, moved: bool) -> None:
    suites = [{"pcie": outcome(value, comparison="<=")} for value in (old, new)]
    assert [row.moved for row in compare_suites(*suites) if row.criterion == "share"] == [moved]


def test_a_latency_is_no_ratio_and_is_counted_apart() -> None:
    suites = [{"pcie": outcome(value, unit="s", comparison="<=")} for value in (0.1, 0.2)]
    found = summarize_changes(compare_suites(*suites))
    assert found.endswith("0 of 0 ratios and 1 of 2 times, sizes and counts differ by more than 1 %.")


def test_what_moved_comes_before_what_stayed() -> None:
    suites = [{"a": outcome(0.95), "b": outcome(value)} for value in (0.95, 0.99)]
    rows = compare_suites(*suites)
    assert [(row.name, row.criterion) for row in rows][:2] == [("b", "share"), ("a", "")]


def test_what_only_one_suite_has_is_absent_in_the_other_and_no_changed_status() -> None:
    gone = replace(outcome(0.5), criteria=outcome(0.5).criteria[:1])
    rows = compare_suites({"logits": outcome(1.0, "logits"), "pcie": outcome(0.99)}, {"pcie": gone})
    lacking = [(row.name, row.criterion, row.new) for row in rows if not row.shared]
    assert lacking == [("logits", "", None), ("pcie", "count", None)]
    assert [row.criterion for row in rows if row.changed] == [row.criterion for row in rows[:2]] == ["", "share"]
    assert summarize_changes(rows).startswith("2 of 2 statuses differ; lacking in one suite: 2. Of the figures, ")


def test_a_suite_that_lacks_a_check_is_not_the_same_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, checks in (("old", ("pcie", "logits")), ("new", ("pcie",))):
        (tmp_path / folder).mkdir()
        for check in checks:
            outcome(0.99, f"other-{check}").save(tmp_path / folder / f"{check}.outcome.json")
    page = tmp_path / "page.html"
    assert main(["compare", str(tmp_path / "old"), str(tmp_path / "new"), "--html", str(page)]) == 1
    assert "0 of 3 statuses differ; lacking in one suite: 1." in capsys.readouterr().out
    text = page.read_text()
    assert (
        text.index("What changed its status</strong>: nothing")
        < text.index("What only one suite has")
        < text.index("absent")
    )


def test_the_command_exits_by_whether_a_status_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("a", 0.99), ("b", 0.97), ("c", 0.5)):
        (tmp_path / name).mkdir()
        outcome(value, "other").save(tmp_path / name / "pcie.outcome.json")
    (tmp_path / "empty").mkdir()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "0 of 3 statuses differ. Of the figures, 1 of 1 ratios" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "c")]) == 1
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "empty")]) == 2
    page = tmp_path / "page.html"
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "c"), "--html", str(page)]) == 1
    assert "2 of 3 statuses differ" in page.read_text()
    (tmp_path / "file").write_text("")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "c"), "--html", str(tmp_path / "file" / "x")]) == 2
    assert "choose another with --html" in capsys.readouterr().err


def test_the_page_shows_what_changed_before_what_did_not_and_where_the_runs_differ() -> None:
    old = replace(outcome(0.99), params={"seed": 0, "system": "ring"}, environment={"cpu": {"cores": 2}})
    new = replace(outcome(0.5), params={"seed": 0, "system": "accelerate"}, environment={"cpu": {"cores": 16}})
    page = render_comparison(("last week", "today"), {"pcie": old}, {"pcie": new})
    changed, same = page.index("What changed its status"), page.index("What kept its status and stayed")
    assert changed < page.index("<code>share</code>") < same < page.index("<code>count</code>")
    assert "99.00 %" in page[changed:same]
    assert re.search(r"pcie: system</th><td>ring</td><td>accelerate", page.replace("<wbr>", ""))
    assert "pcie: cpu.cores" in page
    assert "pcie: seed" not in page
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|<script|<link|@import", page)


def test_text_from_either_suite_stays_text() -> None:
    attack = "<script>alert(1)</script>\"'"
    row = replace(outcome(0.5).criteria[0], name=attack, unit=attack)
    text = replace(outcome(0.5).criteria[0], name="text", observed=attack)
    hostile = replace(
        outcome(0.5), criteria=(row, text), params={attack: attack}, environment={attack: {attack: attack}}
    )
    for suites in (({attack: hostile}, {}), ({}, {attack: hostile}), ({attack: hostile}, {attack: outcome(0.5)})):
        assert "<script" not in render_comparison((attack, attack), *suites)


def test_a_time_is_printed_as_a_person_says_it() -> None:
    assert tell_quantity(0.02573, "s") == "25.7 ms"
    assert tell_quantity(30.0, "s") == "30 s"
    assert tell_quantity(0.0, "s") == "0 s"
    assert tell_quantity("NaN", "s") == "NaN s"
    assert tell_quantity(0.5514, "share of windows") == "55.14 % of windows"
