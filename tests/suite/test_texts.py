"""What an exception says never ends a suite and never fills a page: it is made fit, and stands in the log whole."""

from __future__ import annotations

import json
from pathlib import Path

from djinn_checks.outcome import Failure, Outcome, Status
from djinn_checks.report.load import OUTCOME_MIME
from djinn_checks.suite.folder import write_index
from djinn_checks.suite.texts import cut, fit_notebook, fit_outcome
from tests.report import samples
from tests.suite.runs import run

SURROGATE = "no file x" + chr(0xDCFF) + ".bin"
FAILED = """
from djinn_checks.outcome import Failure
from djinn_checks.report.verdict import show
text = {text}
failure = Failure(type="OSError", message=text)
outcome = Outcome(check="logits", status=Status.ERROR, summary="OSError: " + text, failure=failure)
outcome.save(save_to)
show(outcome)
"""


def test_a_text_that_cannot_be_encoded_is_an_error_of_its_check_and_ends_nothing(tmp_path: Path) -> None:
    result = run(tmp_path, FAILED.format(text='"no file x" + chr(0xDCFF) + ".bin"'))
    assert result.outcome.status is Status.ERROR
    assert result.report_problem == ""
    assert result.html_file is not None
    assert "no file x\\udcff.bin" in result.html_file.read_text()
    assert "no file x\\udcff.bin" in write_index(tmp_path / "out").read_text()


def test_five_megabytes_of_exception_are_cut_in_outcome_notebook_and_pages_and_whole_in_the_log(tmp_path: Path) -> None:
    result = run(tmp_path, FAILED.format(text="'begin ' + 5_000_000 * 'x' + ' end'"))
    out = tmp_path / "out"
    assert result.outcome.status is Status.ERROR
    write_index(out)
    for name in ("logits.outcome.json", "logits.html", "logits.ipynb", "index.html", "ro-crate-metadata.json"):
        assert (out / name).stat().st_size < 1_000_000, name
    assert "begin x" in result.outcome.summary
    assert result.outcome.summary.endswith("x end")
    assert "begin " + 5_000_000 * "x" + " end" in (out / "logits.log").read_text()


def test_an_exception_that_a_cell_shows_is_cut_likewise(tmp_path: Path) -> None:
    result = run(tmp_path, "raise ValueError(5_000_000 * 'x')")
    assert result.outcome.failure is not None
    assert result.outcome.failure.type == "ValueError"
    for name in ("logits.outcome.json", "logits.html", "logits.ipynb"):
        assert (tmp_path / "out" / name).stat().st_size < 1_000_000, name
    assert 5_000_000 * "x" in (tmp_path / "out" / "logits.log").read_text()


def test_what_fits_is_left_as_it_is() -> None:
    for outcome in samples.every_status():
        assert fit_outcome(outcome) == (outcome, "")
        notebook = samples.executed_notebook(outcome)
        assert fit_notebook(notebook, OUTCOME_MIME) == notebook
    assert cut("abc", 3) == "abc"


def test_texts_are_made_fit_for_files() -> None:
    failure = Failure(type="OSError", message=SURROGATE, traceback=20_000 * "t")
    outcome = Outcome(
        check="logits", status=Status.ERROR, summary=SURROGATE, failure=failure, params={"a": [SURROGATE]}
    )
    fit, whole = fit_outcome(outcome)
    json.dumps(fit.to_dict(), ensure_ascii=False).encode("utf-8")
    assert fit.summary == "no file x\\udcff.bin"
    assert whole == "traceback: " + 20_000 * "t"
