"""The runner settles what a run decided, whatever became of the kernel. Real papermill, real kernels."""

from __future__ import annotations

import errno
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from djinn_checks.cli import main
from djinn_checks.errors import ParamsError, RunnerError
from djinn_checks.outcome import Failure, Outcome, Status
from djinn_checks.suite import folder as folders
from djinn_checks.suite import storage as evidence
from djinn_checks.suite.folder import render_folder
from djinn_checks.suite.params_folder import Limits, read_suite
from djinn_checks.suite.runner import Result, find_result, run_suite
from tests.suite.runs import SAVE, TRACE, run, write_params
from tests.whole import whole

SAMPLES = "logits.samples.criteria.csv"
STORED = {"logits.outcome.json", "logits.ipynb", "logits.log", SAMPLES}


def files(result: Result) -> set[str]:
    return {path.name for path in result.outcome_file.parent.iterdir()}


def test_a_finished_check_gives_its_outcome_notebook_and_report_and_no_scratch(tmp_path: Path) -> None:
    result = run(tmp_path, SAVE)
    assert (result.outcome.status, result.outcome.summary) == (Status.PASS, "fine")
    assert files(result) == {"logits.html", *STORED}
    assert Outcome.load(result.outcome_file) == result.outcome
    assert "PASS" in result.html_file.read_text()
    before = result.html_file.read_bytes()
    assert render_folder(tmp_path / "out") == [result.html_file, tmp_path / "out" / "index.html"]
    assert result.html_file.read_bytes() == before


DEATHS = {
    "raises": ("raise ValueError('the disk is <b>round</b>')", "ValueError", "the disk is <b>round</b>"),
    "exits": ("import os; os._exit(3)", "DeadKernel", "the kernel died"),
    "is terminated": ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "DeadKernel", "the kernel died"),
    "is killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "DeadKernel", "the kernel died"),
}


def test_samples_that_a_check_keeps_lie_beside_its_outcome_under_its_name(tmp_path: Path) -> None:
    keep = "Path(save_to).with_name('outcome.samples.csv.gz').write_bytes(b'123')"
    assert "logits.samples.csv.gz" in files(run(tmp_path, SAVE, keep))
    assert "logits.samples.csv.gz" not in files(run(tmp_path, SAVE)), "samples of an earlier run are gone"


def test_a_verdict_is_kept_when_its_report_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> str:
        raise ValueError("no template")

    monkeypatch.setattr(folders, "render_html", broken)
    result = run(tmp_path, SAVE)
    assert result.outcome.status is Status.PASS
    assert result.html_file is None
    assert "no template" in result.report_problem
    assert files(result) == STORED


def test_a_real_suite_runs_from_the_command_line_and_resume_runs_what_is_missing_was_an_error_or_has_other_params(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pcie.yaml").write_text(f"trace: {TRACE}\ndevice: cpu\n")
    out = tmp_path / "out"
    assert main(["run", str(tmp_path), "--out", str(out)]) == 0
    assert "PASS" in capsys.readouterr().out
    assert json.loads((out / "pcie.ipynb").read_text())["metadata"]["papermill"]["exception"] is None
    first = find_result(read_suite(tmp_path)[0], out)
    assert first is not None
    assert first.outcome.status is Status.PASS
    assert "save_to" not in first.outcome.params
    made = first.outcome_file.stat().st_mtime_ns
    (again,) = run_suite(read_suite(tmp_path), out, resume=True)
    assert again.outcome == first.outcome
    assert first.outcome_file.stat().st_mtime_ns == made
    assert again.html_file == first.html_file
    replace(first.outcome, params={**first.outcome.params, "save_to": ""}).save(first.outcome_file)
    assert find_result(read_suite(tmp_path)[0], out), "as outcomes once said"
    (tmp_path / "pcie.yaml").write_text(f"trace: {TRACE}\ndevice: cpu\nwindow_ms: 25.0\n")
    assert find_result(read_suite(tmp_path)[0], out) is None
    failure = Failure(type="X", message="y")
    replace(first.outcome, status=Status.ERROR, failure=failure).save(first.outcome_file)
    (tmp_path / "pcie.yaml").write_text(f"trace: {TRACE}\ndevice: cpu\n")
    assert find_result(read_suite(tmp_path)[0], out) is None


def test_a_full_disk_is_an_error_with_its_cause_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: str, target: str) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(evidence.shutil, "copyfile", full)
    result = run(tmp_path, SAVE)
    assert result.outcome.status is Status.ERROR
    assert "No space left on device" in result.outcome.summary
    assert "make room" in result.outcome.summary
    assert files(result) == {"logits.outcome.json", "logits.html"}
    assert Outcome.load(result.outcome_file).status is Status.ERROR


def test_one_notebook_runs_once_for_each_of_its_params_files(tmp_path: Path) -> None:
    for name in ("pcie", "pcie-a", "logits-b"):
        (tmp_path / f"{name}.yaml").write_text("seed: 1\n")
    jobs = read_suite(tmp_path)
    assert {(job.name, job.check, job.notebook.stem) for job in jobs} == {
        ("logits-b", "logits", "logits"),
        ("pcie", "pcie", "pcie"),
        ("pcie-a", "pcie", "pcie"),
    }
    assert {job.name for job in read_suite(tmp_path, ["pcie"])} == {"pcie", "pcie-a"}
    assert {job.name for job in read_suite(tmp_path, ["pcie-a"])} == {"pcie-a"}


@pytest.mark.parametrize("saved_before", [False, True], ids=["before saving", "after saving a PASS"])
@pytest.mark.parametrize("death", DEATHS)
def test_a_kernel_that_dies_is_an_error_with_its_cause_and_a_report(
    tmp_path: Path, death: str, saved_before: bool
) -> None:
    code, kind, message = DEATHS[death]
    result = run(tmp_path, SAVE if saved_before else "pass", code)
    failure = result.outcome.failure
    assert result.outcome.status is Status.ERROR
    assert failure is not None
    assert failure.type == kind
    assert message in failure.message
    html = result.html_file.read_text()
    assert "ERROR" in html
    assert "<b>round</b>" not in html


def test_a_run_over_its_time_is_ended_with_its_kernel(tmp_path: Path) -> None:
    started = time.monotonic()
    result = run(tmp_path, SAVE, "import time; time.sleep(100)", timeout_s=12.0)
    assert time.monotonic() - started < 40
    assert result.outcome.status is Status.ERROR
    assert result.outcome.failure is not None
    assert result.outcome.failure.type == "Timeout"


def test_a_suite_over_its_time_ends_the_check_it_hits_and_starts_no_other(tmp_path: Path) -> None:
    suite = write_params(tmp_path / "suite", "model: random:tiny\nbudget_fraction: 0.5\npasses: 100000\ndevice: cpu\n")
    write_params(suite, f"trace: {TRACE}\ndevice: cpu\n", "pcie.yaml")
    out = tmp_path / "out"
    whole("pcie", summary="of an earlier run").save(out / "pcie.outcome.json")
    hit, not_started = run_suite(read_suite(suite), out, limits=Limits(suite_timeout_s=6.0))
    for result, cause in ((hit, "Timeout"), (not_started, "NotStarted")):
        assert result.outcome.status is Status.ERROR
        assert result.outcome.failure is not None
        assert result.outcome.failure.type == cause
        assert Outcome.load(result.outcome_file).status is Status.ERROR
        assert cause in result.html_file.read_text()
    assert "what the suite had left" in hit.outcome.summary
    assert "--resume" in not_started.outcome.summary
    assert not_started.seconds < 2
    assert (out / "index.html").read_text().count("ERROR</span>") >= 2
    (_, later) = run_suite(read_suite(suite), out, limits=Limits(timeout_s=0.5), resume=True)
    assert later.outcome.failure.type == "Timeout", "what was not started is what --resume runs"


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "x"])
def test_a_time_limit_that_is_none_is_refused(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--timeout", "--suite-timeout"):
        with pytest.raises(SystemExit, match="2"):
            main(["run", "params/smoke", option, limit])
    assert "--suite-timeout" in capsys.readouterr().err


def test_an_outcome_of_an_earlier_run_is_never_taken_for_this_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole(summary="old").save(out / "logits.outcome.json")
    (out / "logits.ipynb").write_text("old")
    result = run(tmp_path, "pass")
    assert result.outcome.status is Status.ERROR
    assert result.outcome.failure is not None
    assert result.outcome.failure.type == "NoOutcome"
    assert "old" not in result.outcome_file.read_text()


def test_params_are_refused_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = write_params(tmp_path / "suite", "passes: 4\nbudget_fracton: 0.5\n")
    assert main(["run", str(suite), "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "logits.yaml" in message
    assert "did you mean 'budget_fraction'?" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("passes: [", "cannot be read as YAML"),
        ("- 1", "expected `name: value` lines, got list"),
        ("passes: 1e1", "text"),
        ("save_to: x.json", "save_to: no parameter; a suite keeps its own files"),
    ],
)
def test_a_params_file_that_is_no_mapping_of_values_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ParamsError, match=expected):
        read_suite(write_params(tmp_path / "suite", text))


def test_a_suite_without_params_or_with_unknown_checks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match="found none there"):
        read_suite(tmp_path)
    suite = write_params(tmp_path / "suite", "")
    with pytest.raises(RunnerError, match=r"none there; .* has the suites suite$"):
        read_suite(tmp_path)
    with pytest.raises(RunnerError, match=r"there is no such folder; did you mean .*/suite\?"):
        read_suite(tmp_path / "suit")
    with pytest.raises(RunnerError, match=r"there is no such file; did you mean 'logits\.yaml'\?"):
        read_suite(suite / "logit.yaml")
    with pytest.raises(RunnerError, match="--only names pci; it has logits"):
        read_suite(suite, ["pci"])
    with pytest.raises(RunnerError, match=r"there is no check of that name; known: logits"):
        read_suite(write_params(tmp_path / "other", "", "nonsense.yaml"))
    with pytest.raises(RunnerError, match="found none"):
        render_folder(tmp_path)


def test_an_output_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    suite = write_params(tmp_path / "suite", "model: random:tiny\n")
    assert main(["run", str(suite), "--out", str(tmp_path / "file" / "out")]) == 2
    assert "choose another with --out" in capsys.readouterr().err
