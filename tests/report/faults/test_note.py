"""A check's report says how many planted faults it caught, if they were planted where it ran."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from djinn_checks.outcome import Outcome
from djinn_checks.report.faults.note import note_faults
from djinn_checks.report.summary import tell
from djinn_checks.suite.folder import render_fault_notes, render_folder
from tests.report.faults.samples import fault
from tests.whole import whole

PLACE: dict[str, Any] = {
    "device": "cpu", "platform": "Linux", "cpu": {"model": "a cpu", "cores": 2, "threads": 2, "torch_threads": 1},
    "packages": {"djinn-checks": "0.1.0"}, "source": {"commit": "abc", "dirty": False}, "gpu": None,
}  # fmt: skip


def of(check: str, **changed: Any) -> Outcome:
    return whole(check, environment=PLACE | changed, started_at="2026-01-01")


def planted(*verdicts: str, **changed: Any) -> Outcome:
    rows = [{"check": "logits", "verdict": verdict} for verdict in verdicts]
    clean = {"logits": {"check": "logits", "runs": 30, "false_alarms": 0}}
    return replace(of("faults", **changed), measurements={"faults": rows, "clean": clean})


def test_the_line_counts_what_was_planted_for_this_check() -> None:
    note = note_faults(of("logits"), [of("logits"), planted("caught", "caught", "MISSED", "not applicable")])
    assert note is not None
    assert "On this machine, this check caught 2 of 3 planted faults" in note
    assert "raised 0 false alarms in 30 clean runs." in note
    faults = planted("caught")
    faults.measurements["clean"]["logits"]["undecided"] = 2
    assert "in 30 clean runs, 2 of them without a verdict." in (note_faults(of("logits"), [faults]) or "")
    assert note_faults(of("pcie"), [planted("caught")]) is None
    assert note_faults(planted("caught"), [planted("caught")]) is None


def test_what_was_planted_in_made_up_evidence_is_counted_apart() -> None:
    faults = planted("caught", "caught", "MISSED")
    found: Any = faults.measurements
    for row, made_up in zip(found["faults"], (False, True, True), strict=True):
        row["made_up"] = made_up
    found["clean"]["made"] = {"check": "logits", "runs": 7, "false_alarms": 0, "made_up": True}
    note = note_faults(of("logits"), [faults]) or ""
    assert "caught 1 of 1 faults planted in a run and 1 of 2 in made-up evidence" in note
    assert "0 false alarms in 30 clean runs and in 7 pieces of made-up evidence." in note


def test_older_outcomes_are_counted_by_the_time_that_a_fault_took() -> None:
    rows = [fault("ran"), fault("made")]
    old = replace(of("faults"), measurements={"faults": rows}, timings={"faults_s": {"ran": 1.3, "made": 0.004}})
    assert tell(old).startswith("caught 1 of 1 faults planted in a run and 1 of 1 in made-up evidence")


def test_as_many_threads_as_the_faults_were_given_do_not_matter() -> None:
    assert note_faults(of("logits", cpu=PLACE["cpu"] | {"torch_threads": 2}), [planted("caught")]) is not None


@pytest.mark.parametrize(
    "changed",
    [
        {"device": "cuda:0", "gpu": {"name": "a gpu"}},
        {"cpu": {"model": "another", "cores": 2, "threads": 2}},
        {"packages": {"djinn-checks": "0.2.0"}},
        {"source": {"commit": "def", "dirty": False}},
        {"packages": {}},
    ],
    ids=["device", "processor", "version", "commit", "unknown version"],
)
def test_faults_of_another_place_are_not_mentioned(changed: dict[str, Any]) -> None:
    assert note_faults(of("logits"), [planted("caught", **changed)]) is None


def test_a_report_that_is_older_than_the_faults_gets_the_line_and_rendering_gives_the_same_page(tmp_path: Path) -> None:
    of("logits").save(tmp_path / "logits.outcome.json")
    render_folder(tmp_path)
    assert "planted faults" not in (tmp_path / "logits.html").read_text()
    assert render_fault_notes(tmp_path) == []
    found: Any = {**planted("caught").measurements}
    found["faults"] = [fault("a_fault")]
    found["clean"]["logits"] |= {"says": "ring", "alarms": [], "undecided": 0, "doubts": []}
    whole("faults", environment=PLACE, measurements=found).save(tmp_path / "faults.outcome.json")
    assert render_fault_notes(tmp_path) == [tmp_path / "logits.html"]
    page = (tmp_path / "logits.html").read_bytes()
    assert b"On this machine, this check caught 1 of 1 planted faults" in page
    render_folder(tmp_path)
    assert (tmp_path / "logits.html").read_bytes() == page
