"""A check that runs says how far it is: to a notebook as a bar, to a suite's runner through a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from djinn_checks.errors import UnfinishedError
from djinn_checks.outcome import Status
from djinn_checks.report.progress import SCRATCH, Progress, Stage, read_progress, render_bar
from djinn_checks.report.verdict import stop_on_error
from tests.report import samples


def test_in_a_suite_the_runner_reads_the_last_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_progress(tmp_path) is None
    monkeypatch.setenv(SCRATCH, str(tmp_path))
    now = [0.0]
    tell = Progress(clock=lambda: now[0])
    tell("reference", 0, 6)
    assert read_progress(tmp_path) == Stage("reference", 0, 6)
    tell("reference", 1, 6)
    assert read_progress(tmp_path) == Stage("reference", 0, 6), "not more often than somebody can look"
    now[0] = 1.0
    tell("reference", 2, 6)
    assert read_progress(tmp_path) == Stage("reference", 2, 6)
    tell("passes", 0, 3)
    assert read_progress(tmp_path) == Stage("passes", 0, 3), "a stage that begins is told at once"
    (tmp_path / "progress.json").write_text("[[")
    assert read_progress(tmp_path) is None


def test_no_check_is_lost_for_want_of_a_place_to_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SCRATCH, "/there/is/no/such/folder")
    tell = Progress()
    tell("reference", 0, 6)
    tell("passes", 0, 3)


def test_a_bar_says_its_share_and_escapes_its_stage() -> None:
    bar = render_bar(Stage("<b>", 1, 4), 12.3)
    assert "&lt;b&gt;, 25% (12 s)" in bar
    assert 'aria-valuenow="25"' in bar
    assert Stage("starting the server", 0, 1).describe() == "starting the server"
    assert Stage("x", 7, 4).share() == 1.0
    assert Stage("x", 1, 0).share() == 0.0


def test_a_notebook_without_a_verdict_ends_with_an_exception_and_a_suite_s_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(SCRATCH, raising=False)
    undecided = samples.passed(status=Status.INCONCLUSIVE)
    for outcome in (samples.passed(), samples.failed(), undecided):
        stop_on_error(outcome)
    with pytest.raises(UnfinishedError, match="system did not run, so there is no verdict about it: INCONCLUSIVE: sys"):
        stop_on_error(samples.inconclusive())
    with pytest.raises(UnfinishedError, match="there is no verdict: ERROR: ring on smollm2: CopyError"):
        stop_on_error(samples.crashed())
    monkeypatch.setenv(SCRATCH, "/a/run")
    for outcome in (samples.crashed(), samples.inconclusive()):
        stop_on_error(outcome)
