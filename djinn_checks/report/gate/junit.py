"""A suite as JUnit's XML, which every CI reads: a test suite for each report, a test case for each row.

What is red in it is what makes the exit code other than 0. So a row that only informs is never a failure, and what is
not decided is one under `--strict` alone. A case of its own, `finished`, stands for the check as a whole and bears its
time: the rows of a check are measured together, and have none of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

from junitparser import Attr, Error, Failure, IntAttr, JUnitXml, Skipped, TestCase, TestSuite

from djinn_checks.outcome import Criterion, Outcome, Status
from djinn_checks.report.gate.reports import Counts, Report, ask, clip, count_row, see
from djinn_checks.report.tables import flatten
from djinn_checks.visible import make_visible

FINISHED = "finished"
"""The case of a check as a whole. No row bears that name."""
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even as a reference."""
_LONGEST, _LONGEST_LINE, _LONGEST_NAME = 16_000, 600, 200
"""Characters of a body, of an attribute that is a sentence, and of a name."""
_PACKAGES = ("djinn-checks", "torch", "transformers", "papermill")


class _Case(TestCase):  # type: ignore[misc]  # its types are not read
    """A case that tells where it stands, for those readers that look there."""

    file = Attr()
    line = IntAttr()


def render_junit(reports: Sequence[Report], *, name: str, strict: bool = False) -> str:
    """Return the XML, which any parser can read whatever the outcomes hold.

    Args:
        name: of the suite.
        strict: whether what is not decided is a failure, and not skipped.
    """
    xml = JUnitXml(_fit(name, _LONGEST_NAME))
    for report in reports:
        suite = TestSuite(_fit(report.name, _LONGEST_NAME))
        for key, value in _properties(report, strict):
            suite.add_property(_fit(key, _LONGEST_NAME), _fit(value, _LONGEST_LINE))
        suite.add_testcases(_cases(report, strict))
        if report.outcome is not None and report.outcome.started_at:
            suite.timestamp = _fit(report.outcome.started_at.partition("+")[0], _LONGEST_NAME)
        xml.add_testsuite(suite)
    xml.update_statistics()
    written = BytesIO()
    xml.write(written)
    return written.getvalue().decode("utf-8") + "\n"


def _cases(report: Report, strict: bool) -> list[TestCase]:
    cases = [_finished(report, strict)]
    for row in report.outcome.criteria if report.outcome else ():
        case = _case(row.name, report)
        counts = count_row(row, strict=strict)
        if counts is not Counts.PASSED:
            kind = Failure if counts is Counts.FAILED and not report.rival else Skipped
            case.result = [_result(kind, row.status, _headline(row), "\n".join(_tell(row)))]
        cases.append(case)
    return cases


def _finished(report: Report, strict: bool) -> TestCase:
    """Return the case of the check as a whole: an error if it did not come to its end, or its page is missing."""
    case, outcome = _case(FINISHED, report), report.outcome
    case.time = round(report.seconds or 0.0, 3)  # readers ask for a number
    if outcome is None:
        case.result = [_result(Error, "NoVerdict", report.why, report.why)]
    elif outcome.failure is not None:
        failure = outcome.failure
        if failure.file and failure.line:
            case.file, case.line = _fit(failure.file, _LONGEST_LINE), failure.line
        end = clip(failure.traceback.rstrip(), _LONGEST // 2, keep_end=True)
        body = f"{clip(outcome.summary, _LONGEST // 4)}\n\n{end}"
        case.result = [_result(Skipped if report.rival else Error, failure.type, outcome.summary, body)]
    elif report.problem:
        case.result = [_result(Error, "Incomplete", report.problem, report.problem)]
    elif outcome.status is not Status.PASS and not any(_decides(row, outcome) for row in outcome.criteria):
        kind = Failure if strict and not report.rival else Skipped  # no row that was judged: no evidence is no pass
        case.result = [_result(kind, outcome.status, outcome.summary, outcome.summary)]
    return case


def _decides(row: Criterion, outcome: Outcome) -> bool:
    return row.required and row.status is outcome.status


def _case(name: str, report: Report) -> _Case:
    case = _Case(_fit(name, _LONGEST_NAME), classname=_fit(report.name, _LONGEST_NAME), time=0.0)
    if report.asked_in:
        case.file = _fit(report.asked_in, _LONGEST_LINE)
    return case


def _result(kind: Any, type_: str, headline: str, body: str) -> Any:
    result = kind(_fit(" ".join(headline.split()), _LONGEST_LINE), _fit(str(type_), _LONGEST_NAME))
    result.text = _fit(body, _LONGEST)
    return result


def _headline(row: Criterion) -> str:
    prefix = "" if row.required else "informative: "
    return f"{prefix}{row.status}: {row.title}: {row.reason or see(row)}"


def _tell(row: Criterion) -> Iterator[str]:
    yield _headline(row)
    if row.status is Status.SKIP:
        return
    yield f"observed:  {see(row)}"
    yield f"asked for: {ask(row)}"
    if row.floor is not None:
        yield f"noise floor: {row.floor}"
    yield f"reason:    {row.reason}"
    yield f"evidence:  {row.evidence}"


def _properties(report: Report, strict: bool) -> Iterator[tuple[str, str]]:
    yield "verdict", str(report.status)
    if report.rival:
        yield "counts", "no: it is of another system than what is under test"
    yield "strict", str(strict).lower()
    if report.page:
        yield "report", report.page
    outcome = report.outcome
    if outcome is None:
        return
    yield "check", outcome.check
    yield "summary", outcome.summary
    for key, value in flatten(outcome.params, "params."):
        yield key, str(value)
    machine = outcome.environment or {}
    packages = machine.get("packages") or {}
    facts = {package: packages.get(package) for package in _PACKAGES}
    facts |= {"python": machine.get("python"), "commit": (machine.get("source") or {}).get("commit")}
    facts |= {"gpu": (machine.get("gpu") or {}).get("name"), "driver": (machine.get("gpu") or {}).get("driver")}
    facts |= {"cpu": (machine.get("cpu") or {}).get("model")}
    yield from ((key, str(value)) for key, value in facts.items() if value)


def _fit(text: str, longest: int) -> str:
    """Return text that XML can hold: whatever it cannot is spelled out, and what is too long is cut."""
    spelled = _NOT_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", make_visible(clip(text, longest)))
    return clip(spelled, longest)
