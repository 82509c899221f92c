"""Two suites are laid side by side, what changed first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from djinn_checks.cli import main
from djinn_checks.outcome import Outcome, Status, judge, settle
from djinn_checks.report.compare import compare_suites


def outcome(observed: float, check: str = "pcie") -> Outcome:
    rows = (
        judge("share", "", observed, ">=", 0.9, unit="share", evidence=""),
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


def test_what_only_one_suite_has_is_shown_as_absent() -> None:
    gone = replace(outcome(0.99), criteria=outcome(0.99).criteria[:1])
    rows = compare_suites({"pcie": outcome(0.99), "logits": outcome(1.0, "logits")}, {"pcie": gone})
    changed = {(row.name, row.criterion): (row.old, row.new) for row in rows if row.changed}
    assert changed[("logits", "")] == (Status.PASS, None)
    assert changed[("pcie", "count")] == (Status.PASS, None)


def test_the_command_exits_by_whether_a_status_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("a", 0.99), ("b", 0.97), ("c", 0.5)):
        (tmp_path / name).mkdir()
        outcome(value).save(tmp_path / name / "pcie.outcome.json")
    (tmp_path / "empty").mkdir()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "0 of 3 statuses differ" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "c")]) == 1
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "empty")]) == 2
