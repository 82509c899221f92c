"""JUnit's XML is read by a library and by what GitHub's reporters and GitLab look at; red in it is what exits red."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from junitparser import Error, Failure, JUnitXml, Skipped

from djinn_checks.commands.exit_codes import exit_code
from djinn_checks.outcome import Status
from djinn_checks.report.gate.annotations import list_annotations
from djinn_checks.report.gate.junit import FINISHED, render_junit
from djinn_checks.report.gate.reports import Report, decide_all, mark_rivals
from djinn_checks.report.gate.summary import render_summary
from tests.report.gate.reports import HOSTILE, make_reports, make_rows, open_outcome
from tests.whole import whole


def read(reports: list[Report], *, strict: bool = False) -> dict[tuple[str, str], tuple[type, str, str] | None]:
    """Return what became of each case: nothing, or kind, message and text, as a library reads them."""
    xml = JUnitXml.fromstring(render_junit(reports, name="suite", strict=strict).encode())
    found = {}
    for suite in xml:
        for case in suite:
            said = [(type(result), result.message, result.text) for result in case.result]
            assert len(said) <= 1
            assert (case.classname, case.name) not in found, "GitLab reads the first of two cases of one name"
            found[case.classname, case.name] = said[0] if said else None
    assert (xml.tests, xml.failures + xml.errors + xml.skipped) == (len(found), sum(map(bool, found.values())))
    return found


def test_each_status_is_what_a_ci_calls_it() -> None:
    cases = read(make_reports())
    kinds = {key: said and said[0] for key, said in cases.items() if key[0] in ("logits", "pcie", "agents", "torn")}
    assert kinds == {
        ("logits", FINISHED): None,
        ("logits", "holds"): None,
        ("logits", "fails"): Failure,
        ("logits", "informs"): Skipped,
        ("logits", "open"): Skipped,
        ("logits", "asked"): Skipped,
        ("pcie", FINISHED): None,
        ("pcie", "open"): Skipped,
        ("agents", FINISHED): Error,
        ("torn", FINISHED): Error,
    }
    strict = read(make_reports(), strict=True)
    assert {key for key in cases if (strict[key] or [None])[0] is not (cases[key] or [None])[0]} == {
        ("logits", "open"),
        ("pcie", "open"),
    }
    assert strict["pcie", "open"][0] is Failure  # type: ignore[index]


def test_a_failure_tells_what_was_observed_and_asked_for_and_why() -> None:
    said = read(make_reports())["logits", "fails"]
    assert said is not None
    for part in ("observed:  50 %", "asked for: at least 90 %", "the link idles", "It fails"):
        assert part in said[2]
    assert said[1].startswith("FAIL: It fails the link idles: 50 %, expected at least 90 %")
    error = read(make_reports())["agents", FINISHED]
    assert error is not None
    assert error[2].endswith("KeyError: 'x'\nthe link idles")


@pytest.mark.parametrize("problem", ["", "no report could be written"])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("status", [*Status])
def test_the_xml_is_red_where_the_exit_code_is(status: Status, strict: bool, problem: str) -> None:
    none_judged = whole("faults", Status.INCONCLUSIVE, criteria=(make_rows()[4],))
    informs = whole(criteria=(make_rows()[0], make_rows()[2]))
    made = {Status.SKIP: none_judged, Status.PASS: informs, Status.INCONCLUSIVE: open_outcome()}
    outcome = made.get(status) or whole("logits", status)
    cases = read([Report(name="x", outcome=outcome, problem=problem)], strict=strict)
    is_red = any(said and said[0] in (Failure, Error) for said in cases.values())
    assert is_red == (exit_code([outcome.status], strict=strict, is_whole=not problem) != 0)


def test_what_gitlab_and_githubs_reporters_read_is_there() -> None:
    """GitLab: docs.gitlab.com/ci/testing/unit_test_reports; GitHub: dorny/test-reporter's and mikepenz's parsers."""
    root = ElementTree.fromstring(render_junit(make_reports(), name="suite"))
    assert (root.tag, float(root.attrib["time"])) == ("testsuites", 12.346)
    for suite in root:
        assert suite.tag == "testsuite"
        assert {"name", "tests", "failures", "errors", "skipped", "time"} <= suite.attrib.keys()
        assert float(suite.attrib["time"]) == sum(float(case.attrib["time"]) for case in suite.iter("testcase"))
        for case in suite.iter("testcase"):
            assert case.attrib["classname"] == suite.attrib["name"]
            assert case.attrib["name"].strip() == case.attrib["name"] != ""
            for result in case:
                assert result.tag in ("failure", "error", "skipped")
                assert (result.text or "").strip(), "GitLab shows the content, dorny's reporter too"
                assert result.attrib["message"], "mikepenz's shows the attribute"
    case = root.find("./testsuite[@name='agents']/testcase")
    assert case is not None
    assert (case.attrib["file"], case.attrib["line"]) == ("mine/own.py", "7")
    suite = root.find("./testsuite[@name='logits']")
    assert suite is not None
    assert suite.attrib["timestamp"] == "2026-11-28T20:00:00"
    assert suite[1].attrib["file"] == "suite/logits.yaml"
    properties = {found.attrib["name"]: found.attrib["value"] for found in suite.iter("property")}
    assert properties.items() >= {"params.a.b": "1", "torch": "2.11.0", "cpu": "A CPU", "verdict": "FAIL"}.items()


@settings(max_examples=40)
@given(st.text(st.characters(codec=None)) | st.just(HOSTILE))
def test_any_text_can_be_read_back(text: str) -> None:
    cases = read(make_reports(text))
    assert cases["logits", "fails"] is not None
    printable = "".join(letter for letter in text if letter.isascii() and letter.isalnum())
    said = "".join(letter for letter in cases["logits", "fails"][2] if letter.isascii() and letter.isalnum())
    assert printable in said or not text.isascii() or not text.isprintable()


def test_a_very_long_text_is_cut_and_a_trace_keeps_its_end() -> None:
    cases = read(make_reports("y" * 300_000 + " the end"))
    assert all(len(said[2]) < 20_000 and len(said[1]) < 1_000 for said in cases.values() if said)
    assert cases["agents", FINISHED][2].endswith(" the end")  # type: ignore[index]


def test_a_rival_that_fails_is_told_and_stops_nothing() -> None:
    failed = whole("pcie", Status.FAIL, params={"system": "accelerate"})
    own = whole("pcie", params={"system": "ring"})
    reports = mark_rivals([Report(name="pcie", outcome=own), Report(name="pcie-accelerate", outcome=failed)])
    assert [report.rival for report in reports] == [False, True]
    assert decide_all(reports) is Status.PASS
    assert read(reports)["pcie-accelerate", "decides"][0] is Skipped  # type: ignore[index]
    assert list_annotations(reports) == []
    told = render_summary(reports, title="suite")
    assert "## ✅ PASS: suite" in told
    assert "**FAIL**, of another system" in told
