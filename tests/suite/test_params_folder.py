"""A suite says how long it may take, two runs never mix, and the exit code says what came of it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from djinn_checks.cli import main
from djinn_checks.commands.exit_codes import exit_code
from djinn_checks.errors import ParamsError, RunnerError
from djinn_checks.outcome import Outcome, Status
from djinn_checks.suite import storage
from djinn_checks.suite.folder import set_aside, write_index
from djinn_checks.suite.params_folder import Limits, read_limits, read_suite
from djinn_checks.suite.runner import find_result, run_suite
from djinn_checks.suite.storage import keep
from tests.suite.runs import finished, write_params
from tests.whole import whole


@pytest.mark.parametrize(
    ("statuses", "options", "code"),
    [
        ({"a": Status.PASS, "b": Status.INCONCLUSIVE}, (), 0),
        ({"a": Status.PASS, "b": Status.FAIL, "c": Status.INCONCLUSIVE}, ("--strict",), 1),
        ({"a": Status.PASS, "b": Status.INCONCLUSIVE}, ("--strict",), 3),
        ({"a": Status.FAIL, "b": Status.ERROR}, ("--suite-timeout", "1e-9"), 4),
    ],
)
def test_the_command_exits_as_the_worst_verdict_says(
    tmp_path: Path, statuses: dict[str, Status], options: tuple[str, ...], code: int
) -> None:
    """Finished checks are taken as they are; the one that is an ERROR has no time to run again."""
    suite, out = finished(tmp_path, **statuses)
    assert main(["run", str(suite), "--out", str(out), "--resume", *options]) == code


@pytest.mark.parametrize(("status", "code"), [(Status.PASS, 5), (Status.INCONCLUSIVE, 5), (Status.FAIL, 1)])
def test_a_verdict_without_its_page_is_no_whole_suite(tmp_path: Path, status: Status, code: int) -> None:
    suite, out = finished(tmp_path, a=status)
    for page in out.glob("*.html"):
        page.unlink()
    junit = tmp_path / "junit.xml"
    assert main(["run", str(suite), "--out", str(out), "--resume", "--junit", str(junit)]) == code
    assert "its report is missing" in junit.read_text()


@pytest.mark.parametrize("rival", [Status.FAIL, Status.ERROR, Status.INCONCLUSIVE])
def test_a_rivals_verdict_is_marked_as_its_own_and_in_no_exit_code(
    tmp_path: Path, rival: Status, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, out = tmp_path / "suite", tmp_path / "out"
    for name, system, status in (("logits", "ring", Status.PASS), ("logits-other", "resident", rival)):
        write_params(suite, f"system: {system}\n", f"{name}.yaml")
        params = read_suite(suite, [name])[-1].resolved
        whole(status=status, summary=name, params=params).save(out / f"{name}.outcome.json")
        (out / f"{name}.html").write_text("page")
    run = ["run", str(suite), "--out", str(out), "--resume", "--strict", "--suite-timeout", "1e-9"]
    assert main(run) == 0
    told = capsys.readouterr().out
    assert "another system" in told
    assert "under test: ring; verdicts of other systems are theirs" in told
    assert f'<div class="banner {rival.value.lower()}">' not in (out / "index.html").read_text()
    assert main([*run, "--only", "logits-other"]) != 0, "asked for by itself it is what is under test"


def test_exit_codes_follow_the_worst_verdict() -> None:
    assert exit_code([Status.PASS, Status.INCONCLUSIVE], strict=False) == 0
    assert exit_code([Status.PASS, Status.INCONCLUSIVE], strict=True) == 3
    assert exit_code([Status.FAIL, Status.INCONCLUSIVE], strict=True) == 1
    assert exit_code([Status.FAIL, Status.ERROR], strict=False) == 4
    assert exit_code([Status.FAIL], strict=False, is_whole=False) == 1
    assert exit_code([Status.INCONCLUSIVE], strict=True, is_whole=False) == 3
    assert exit_code([Status.INCONCLUSIVE], strict=False, is_whole=False) == 5


def test_the_exit_codes_are_told_by_the_command_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["run", "--help"])
    told = capsys.readouterr().out
    assert all(f"  {code}  " in told for code in range(5))


def test_a_suites_own_time_limits_are_read_and_the_command_line_overrules_them(tmp_path: Path) -> None:
    suite = write_params(tmp_path / "suite", "timeout_s: 60\ncell_timeout_s: 30\nsuite_timeout_s: 90.5\n", "suite.yaml")
    write_params(suite, "")
    assert [job.name for job in read_suite(suite)] == ["logits"], "the limits are no check"
    limits = read_limits(suite)
    assert (limits.timeout_s, limits.cell_timeout_s, limits.suite_timeout_s) == (60, 30, 90.5)
    assert limits.replace_by(timeout_s=5.0, cell_timeout_s=None).timeout_s == 5
    assert limits.replace_by(timeout_s=5.0, cell_timeout_s=None).cell_timeout_s == 30
    assert read_limits(tmp_path) == Limits()


@pytest.mark.parametrize("text", ["timeout_s: 0", "cell_timeout_s: 1.5", "suite_timeout_s: .inf", "timeout: 5", "- 1"])
def test_time_limits_that_cannot_be_meant_are_refused_before_anything_runs(tmp_path: Path, text: str) -> None:
    suite = write_params(tmp_path / "suite", text, "suite.yaml")
    with pytest.raises(ParamsError, match=r"suite\.yaml"):
        read_limits(suite)
    write_params(suite, "")
    assert main(["run", str(suite), "--out", str(tmp_path / "out")]) == 2


def test_a_second_run_sets_aside_what_an_earlier_one_left_and_its_pages_still_work(tmp_path: Path) -> None:
    suite, out = finished(tmp_path, old=Status.PASS, gone=Status.FAIL)
    write_index(out)
    (out / "notes.txt").write_text("the reader's own")
    (suite / "logits-gone.yaml").unlink()
    (result,) = run_suite(read_suite(suite), out, limits=Limits(suite_timeout_s=1e-9))
    assert result.outcome.status is Status.ERROR
    assert {file.name for file in out.glob("*.outcome.json")} == {"logits-old.outcome.json"}
    assert "logits-gone" not in (out / "index.html").read_text()
    (earlier,) = (out / "earlier").iterdir()
    assert Outcome.load(earlier / "logits-old.outcome.json").status is Status.PASS
    assert "./logits-gone.html" in (earlier / "index.html").read_text()
    assert (earlier / "logits-gone.html").is_file()
    assert (out / "notes.txt").is_file()


def test_runs_that_are_set_aside_do_not_meet_either(tmp_path: Path) -> None:
    places = []
    for _ in range(2):
        finished(tmp_path, a=Status.PASS)
        places.append(set_aside(tmp_path / "out"))
    assert len(set(places)) == 2
    assert set_aside(tmp_path / "out") is None


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite, out = finished(tmp_path, a=Status.PASS)
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with pytest.raises(RunnerError, match="another run writes there"):
            list(run_suite(read_suite(suite), out))
        assert main(["run", str(suite), "--out", str(out)]) == 2
    finally:
        os.close(folder)
    assert Outcome.load(out / "logits-a.outcome.json").status is Status.PASS, "and the first one's files are untouched"


def test_only_takes_a_check_with_all_of_its_files_or_a_file_by_its_whole_name(tmp_path: Path) -> None:
    for name in ("logits.yaml", "logits-a.yaml", "pcie-a.yaml", "pcie-b.yaml"):
        write_params(tmp_path, "", name)
    for only, expected in (
        (["logits"], ["logits-a", "logits"]),
        (["logits.yaml"], ["logits"]),
        (["pcie"], ["pcie-a", "pcie-b"]),
        (["pcie", "logits-a"], ["logits-a", "pcie-a", "pcie-b"]),
        ([], ["logits-a", "logits", "pcie-a", "pcie-b"]),
    ):
        assert [job.name for job in read_suite(tmp_path, only)] == expected


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("seed: 1\n# a comment\nseed: 2\n", "lines 1 and 3"),
        ("{seed: 1, seed: 1}", "lines 1 and 1"),
        ("prompts:\n  a: 1\n  b: 2\n  a: 3\n", "lines 2 and 4"),
        ("seed: 1\n'seed': 2\n", "lines 1 and 2"),
    ],
)
@pytest.mark.parametrize("name", ["logits.yaml", "suite.yaml"])
def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path: Path, text: str, lines: str, name: str) -> None:
    suite = write_params(write_params(tmp_path / "suite", ""), text, name)
    with pytest.raises(ParamsError, match=rf"{name}: .*'(seed|a)' stands twice, in {lines}"):
        (read_limits if name == "suite.yaml" else read_suite)(suite)
    assert main(["run", str(suite), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("others", [("pcie.yml",), ("pcie.YAML",), ("pcie.yml", "pcie.a.yaml")])
def test_two_files_that_would_be_one_run_are_refused(tmp_path: Path, others: tuple[str, ...]) -> None:
    for name in ("pcie.yaml", *others):
        write_params(tmp_path, "", name)
    with pytest.raises(RunnerError, match=r"pcie\.(yaml|YAML) and pcie\.(yaml|yml) would both be the run pcie"):
        read_suite(tmp_path)


@pytest.mark.parametrize("name", [b"pcie-\xff.yaml", b"pcie-a\nb.yaml"])
def test_a_file_name_that_no_report_can_have_is_refused(tmp_path: Path, name: bytes) -> None:
    write_params(tmp_path, "", os.fsdecode(name))
    with pytest.raises(RunnerError, match="is no name that a report can have"):
        read_suite(tmp_path)


def test_time_limits_under_another_ending_are_refused_and_not_forgotten(tmp_path: Path) -> None:
    write_params(write_params(tmp_path, ""), "timeout_s: 1", "suite.yml")
    with pytest.raises(RunnerError, match=r"time limits stand in suite\.yaml"):
        read_suite(tmp_path)


def test_a_params_file_that_is_none_or_unpacks_to_too_much_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    with pytest.raises(ParamsError, match=r"logits\.yaml: cannot be read as YAML \(it holds more than 100,000"):
        read_suite(write_params(tmp_path / "bomb", bomb))
    with pytest.raises(ParamsError, match=r"logits\.yaml: cannot be read \(it is longer than 1,000,000 bytes\)"):
        read_suite(write_params(tmp_path / "long", "#" * 1_000_001))
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "logits.yaml")
    with pytest.raises(ParamsError, match="it is no regular file"):
        read_suite(tmp_path / "pipe")


def test_resume_takes_no_outcome_that_was_edited(tmp_path: Path) -> None:
    suite, out = finished(tmp_path, a=Status.FAIL)
    (job,) = read_suite(suite)
    taken = find_result(job, out)
    assert taken is not None
    assert taken.outcome.status is Status.FAIL
    file = out / "logits-a.outcome.json"
    file.write_text(file.read_text().replace('"FAIL"', '"PASS"'))
    assert find_result(job, out) is None


def test_a_finished_result_is_stored_before_its_neighbours_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, out = finished(tmp_path, a=Status.PASS)
    (job,) = read_suite(suite)
    (out / "pcie.outcome.json").write_text(100_000 * "[")
    stored, problem = keep(None, whole(params=job.resolved, summary="kept"), job, out)
    assert (stored.summary, problem) == ("kept", "")

    def fails(folder: Path) -> None:
        raise RuntimeError("a neighbour")

    monkeypatch.setattr(storage, "read_outcomes", fails)
    stored, problem = keep(None, whole(params=job.resolved, summary="kept"), job, out)
    assert "no report could be written (RuntimeError: a neighbour)" in problem
    assert Outcome.load(out / "logits-a.outcome.json").summary == stored.summary == "kept"


def test_samples_that_cannot_be_made_lose_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, out = finished(tmp_path, a=Status.PASS)
    (job,) = read_suite(suite)

    def fails(outcome: Outcome) -> None:
        raise ValueError("series of two lengths")

    monkeypatch.setattr(storage, "list_frames", fails)
    stored, problem = keep(None, whole(params=job.resolved), job, out)
    assert stored.status is Status.PASS
    assert problem == "no samples could be written (ValueError: series of two lengths)"
