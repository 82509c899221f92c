"""`--junit`, `--summary`, annotations: written whatever becomes of the suite, and no file of another day is green."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from junitparser import Error, Failure, JUnitXml

from djinn_checks.cli import main
from djinn_checks.commands import running
from djinn_checks.commands.gate import Gate
from djinn_checks.commands.workflow_log import Harmless, without_commands
from djinn_checks.outcome import Status
from djinn_checks.report.gate.reports import Report
from djinn_checks.suite.execution import Job
from djinn_checks.suite.runner import Result
from tests.report.gate.reports import HOSTILE, parse
from tests.suite.runs import finished, write_params
from tests.whole import whole


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be no step of a workflow, whoever runs the tests."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)


_RED = (Error, Failure)


def red(file: Path) -> dict[str, str]:
    """Return the message of each case that is red, by its class."""
    found = {}
    for suite in JUnitXml.fromfile(str(file)):
        for case in suite:
            found.update((case.classname, str(said.message)) for said in case.result if isinstance(said, _RED))
    return found


@pytest.mark.parametrize(
    ("statuses", "options", "code", "names"),
    [
        ({"a": Status.PASS}, [], 0, set()),
        ({"a": Status.PASS, "b": Status.FAIL}, [], 1, {"logits-b"}),
        ({"a": Status.INCONCLUSIVE}, [], 0, set()),
        ({"a": Status.INCONCLUSIVE}, ["--strict"], 3, {"logits-a"}),
    ],
)
def test_the_files_of_a_run_say_what_its_exit_code_says(
    tmp_path: Path, statuses: dict[str, Status], options: list[str], code: int, names: set[str]
) -> None:
    suite, out = finished(tmp_path, **statuses)
    junit, summary = tmp_path / "deep" / "junit.xml", out / "summary.md"
    files = ["--junit", str(junit), "--summary", str(summary)]
    assert main(["run", str(suite), "--out", str(out), "--resume", *options, *files]) == code
    assert red(junit).keys() == names
    assert "[logits-a](logits-a.html)" in summary.read_text()
    assert main(["results", str(out), *options, *files]) == 0
    assert red(junit).keys() == names


def test_a_place_that_cannot_be_written_is_exit_code_5_and_all_else_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, out = finished(tmp_path, a=Status.FAIL)
    (tmp_path / "file").write_text("")
    junit, summary = tmp_path / "file" / "junit.xml", tmp_path / "summary.md"
    command = ["run", str(suite), "--out", str(out), "--resume"]
    assert main([*command, "--junit", str(junit), "--summary", str(summary)]) == 5
    said = capsys.readouterr()
    assert "FAIL" in said.out
    assert f"{junit}: cannot be written (" in said.err
    assert "choose another with --junit; all else is done" in said.err
    assert summary.read_text().startswith("## ❌ FAIL: suite")
    assert main([*command, "--summary", str(tmp_path)]) == 5
    assert "choose another with --summary" in capsys.readouterr().err


def test_what_did_not_start_leaves_a_red_file_in_place_of_a_green_one(tmp_path: Path) -> None:
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    with Gate("x", junit=junit, summary=None, strict=False) as gate:
        gate.add(Report(name="logits", outcome=whole()))
    assert red(junit) == {}
    suite = write_params(tmp_path / "suite", "prompts: none\n")
    assert main(["run", str(suite), "--junit", str(junit), "--summary", str(summary)]) == 2
    assert "prompts" in red(junit)["djinn-checks"]
    assert "prompts" in summary.read_text()


def run_of(*steps: Callable[[Job], Result]) -> Callable[..., Iterator[Result]]:
    """Return a `run_suite` whose jobs become of what each step makes of them."""

    def run_suite(jobs: list[Job], out: Path, **_: object) -> Iterator[Result]:
        for job, step in zip(jobs, steps, strict=True):
            yield step(job)

    return run_suite


def passes(job: Job) -> Result:
    return Result(job=job, outcome=whole(), seconds=1.0, outcome_file=Path("x"), html_file=None)


@pytest.mark.parametrize(("kind", "code"), [(KeyboardInterrupt, 130), (ZeroDivisionError, 6), (SystemExit, None)])
def test_a_suite_that_ends_midway_leaves_a_whole_file_in_which_what_is_missing_is_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException], code: int | None
) -> None:
    junit, seen = tmp_path / "junit.xml", []

    def ends(job: Job) -> Result:
        seen.append(red(junit).keys())  # as it would be, were this the moment of a SIGKILL
        raise kind

    suite, _ = finished(tmp_path, a=Status.PASS, b=Status.PASS)
    monkeypatch.setattr(running, "run_suite", run_of(passes, ends))
    command = ["run", str(suite), "--out", str(tmp_path / "new"), "--junit", str(junit)]
    if code is None:
        with pytest.raises(kind):
            main(command)
    else:
        assert main(command) == code
    assert seen == [{"logits-b"}]
    assert red(junit).keys() == {"logits-b"}
    assert [file.name for file in tmp_path.glob("*junit*")] == ["junit.xml"]


@pytest.mark.parametrize(("status", "code"), [(Status.ERROR, 4), (Status.FAIL, 1), (Status.PASS, 0)])
def test_a_check_that_crashed_is_an_error_beside_one_that_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: Status, code: int
) -> None:
    def ends(job: Job) -> Result:
        return replace(passes(job), outcome=whole(status=status))

    suite, _ = finished(tmp_path, a=Status.PASS, b=Status.PASS)
    monkeypatch.setattr(running, "run_suite", run_of(ends, passes))
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    assert main(["run", str(suite), "--junit", str(junit), "--summary", str(summary)]) == code
    assert red(junit).keys() == ({"logits-a"} if code else set())
    assert f"{status}: suite" in summary.read_text().splitlines()[0]


def test_a_finished_folder_tells_what_cannot_be_read(tmp_path: Path) -> None:
    _, out = finished(tmp_path, a=Status.PASS)
    (out / "pcie.outcome.json").write_text("{")
    junit = tmp_path / "junit.xml"
    assert main(["results", str(out), "--junit", str(junit)]) == 5
    assert "cannot be read" in red(junit)["pcie"]


def test_a_steps_summary_is_appended_to_and_never_grows_beyond_what_github_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = finished(tmp_path, a=Status.PASS)
    step = tmp_path / "step"
    step.write_text("before, without an end of line")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    command = ["results", str(out), "--summary", str(step)]
    assert [main(command), main(command)] == [0, 0]
    text = step.read_text()
    assert text.startswith("before, without an end of line\n## ✅ PASS: out (1 PASS)\n")
    assert (text.count("## ✅"), "](" in text) == (2, False)
    step.write_text("x" * (1024 * 1024 - 1000))
    assert main(command) == 5
    assert len(step.read_bytes()) < 1024 * 1024
    assert "no room is left" in capsys.readouterr().err


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pipe = Path("/dev/fd/1")
    if not pipe.exists():
        pytest.skip("needs /dev/fd")
    suite, out = finished(tmp_path, a=Status.PASS)
    files = ["--summary", str(pipe), "--junit", str(pipe)]
    assert main(["run", str(suite), "--out", str(out), "--resume", *files]) == 0
    said = capfd.readouterr().out
    assert said.index("what was found") < said.index("## ✅ PASS: suite (1 PASS)")
    assert said.count("<testsuites ") == 1


def test_annotations_are_printed_where_github_runs_it_and_nothing_else_is_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, out = finished(tmp_path, a=Status.FAIL)
    params = whole().params
    hostile = "x\n::error::gotcha\n  ::add-mask::x ##[error]y"
    told = whole(status=Status.FAIL, summary=hostile, params=params)
    monkeypatch.setattr(running, "run_suite", run_of(lambda job: Result(
        job=job, outcome=told, seconds=1.0, outcome_file=out, html_file=None, report_problem=hostile)))  # fmt: skip
    assert main(["run", str(suite)]) == 1
    assert "::error title" not in capsys.readouterr().out
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert main(["run", str(suite)]) == 1
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if line.lstrip().startswith("::") or "##[" in line]
    assert [parse(line)[:2] for line in commands] == [("error", {"title": "logits-a: FAIL"})]
    assert any("gotcha" in line for line in lines if line not in commands)
    assert main(["run", str(tmp_path / "::error::no")]) == 2
    assert not any("##[" in line or line.startswith("::error::") for line in capsys.readouterr().err.splitlines())


@settings(max_examples=60)
@given(st.lists(st.text(st.sampled_from(":#[] \r\n\tax")) | st.just(HOSTILE)))
def test_nothing_that_is_written_becomes_a_command_however_it_is_cut(texts: list[str]) -> None:
    class Kept:
        text = ""

        def write(self, text: str) -> None:
            self.text += text

    kept = Kept()
    stream = Harmless(kept)  # type: ignore[arg-type]
    for text in texts:
        assert stream.write(text) == len(text)
    for line in kept.text.replace("\r", "\n").split("\n"):
        assert not line.lstrip().startswith("::")
        assert "##[" not in line
    assert kept.text.replace("\\x3a", ":").replace("\\x5b", "[") == "".join(texts)


def test_streams_are_as_they_were_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    before = sys.stdout, sys.stderr
    with without_commands():
        assert isinstance(sys.stdout, Harmless)
        assert sys.stdout.isatty() in (True, False)
    assert (sys.stdout, sys.stderr) == before
    assert os.environ["GITHUB_ACTIONS"] == "true"


def test_files_of_a_gate_that_cannot_be_are_said_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = finished(tmp_path, a=Status.PASS)
    one = str(tmp_path / "one")
    assert main(["results", str(out), "--junit", one, "--summary", f"{tmp_path}/./one"]) == 2
    assert f"--junit and --summary: both are {one}" in capsys.readouterr().err
    assert not Path(one).exists()
    assert main(["results", str(out), "--junit", "/dev/null", "--summary", "/dev/null"]) == 0
    assert main(["results", str(out), "--junit", str(tmp_path / ("n" * 300))]) == 5
    assert "cannot be written (File name too long)" in capsys.readouterr().err

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_fifo", refuse)  # as in a folder that may not be entered
    assert main(["results", str(out), "--junit", str(tmp_path / "two.xml")]) == 0
