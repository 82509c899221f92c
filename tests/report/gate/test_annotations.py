"""An annotation is one line that the runner's own rules read back to what it says."""

from __future__ import annotations

from djinn_checks.outcome import Status
from djinn_checks.report.gate.annotations import MOST, list_annotations
from djinn_checks.report.gate.reports import Report
from tests.report.gate.reports import HOSTILE, make_reports, parse
from tests.whole import whole


def test_each_report_that_stops_a_change_or_is_open_has_one_annotation() -> None:
    found = [parse(line) for line in list_annotations(make_reports())]
    assert [(level, told["title"]) for level, told, _ in found] == [
        ("error", "logits: FAIL"),
        ("error", "agents: ERROR"),
        ("error", "torn: ERROR"),
        ("warning", "pcie: INCONCLUSIVE"),
    ]
    assert "FAIL fails: observed 50 %, asked for at least 90 %: " in found[0][2]
    assert found[1][1] == {"title": "agents: ERROR", "file": "mine/own.py", "line": "7"}
    assert {level for level, _, _ in map(parse, list_annotations(make_reports(), strict=True))} == {"error"}
    assert list_annotations([Report(name="x", outcome=whole())]) == []


def test_no_text_leaves_its_line_or_its_property() -> None:
    lines = list_annotations(make_reports(HOSTILE), problem=HOSTILE)
    assert not any(command in line for line in lines for command in ("\r", "\n", "##["))
    for level, told, message in map(parse, lines):
        assert (level in ("error", "warning"), told.keys() <= {"title", "file", "line"}) == (True, True)
        assert "%0A::error::y" in message or "no counters" in message


def test_a_step_has_no_more_annotations_than_are_shown_and_the_last_names_the_rest() -> None:
    many = [Report(name=f"logits-{number}", outcome=whole("logits", Status.FAIL)) for number in range(30)]
    lines = list_annotations(many)
    assert len(lines) == MOST
    assert parse(lines[-1])[2].startswith("21 more: logits-9: FAIL, ")
