"""The counters' readings are judged once more, and an outcome that says otherwise is not believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from djinn_checks.checks.conclude import conclude
from djinn_checks.checks.pcie.anatomy import ANATOMY, samples_path
from djinn_checks.checks.pcie.evidence import PcieEvidence
from djinn_checks.checks.pcie.recount import find_contradictions, main
from djinn_checks.errors import OutcomeError
from djinn_checks.faults.pcie.traffic import FULL_RATE, make_evidence, make_noisy_evidence, make_series
from djinn_checks.instruments.traces import save_trace
from djinn_checks.outcome import Outcome, Status
from djinn_checks.suite.doubts import find_doubt

NOW = datetime.now(UTC).isoformat(timespec="seconds")
HALF = make_evidence(make_series(0.5 * FULL_RATE))
"""A link that is half full."""


def outcome_of(evidence: PcieEvidence) -> Outcome:
    facts = {"params": evidence.params.model_dump(mode="json"), "environment": {}, "started_at": NOW}
    return conclude(ANATOMY, evidence, facts)


def lay(folder: Path, evidence: PcieEvidence, forged: Outcome | None = None) -> Path:
    """Lay the readings of a run beside its outcome, or beside another; return the outcome's file."""
    assert evidence.series is not None
    file = (forged or outcome_of(evidence)).save(folder / "outcome.json")
    save_trace(evidence.series, samples_path(file))
    return file


@pytest.mark.parametrize("evidence", [make_evidence(), HALF, make_noisy_evidence(3)], ids=["full", "half", "noisy"])
def test_readings_bear_out_an_outcome_that_was_judged_by_them(tmp_path: Path, evidence: PcieEvidence) -> None:
    assert find_contradictions(lay(tmp_path, evidence)) == []


def contradiction(file: Path) -> str:
    try:
        return "; ".join(find_contradictions(file))
    except OutcomeError as error:  # what it says against itself is said first
        return str(error)


def without_row(outcome: Outcome, name: str) -> Outcome:
    return replace(outcome, criteria=tuple(row for row in outcome.criteria if row.name != name))


def with_lower_ceiling() -> Outcome:
    """Return what the half-full run comes to beside half of the ceiling: a full link."""
    low = HALF.link.ceiling_bytes_per_s / 2
    return outcome_of(replace(HALF, link=replace(HALF.link, ceiling_bytes_per_s=low)))


def with_threshold(outcome: Outcome, name: str, threshold: float) -> Outcome:
    rows = (
        replace(row, threshold=threshold, status=Status.PASS, reason="") if row.name == name else row
        for row in outcome.criteria
    )
    return replace(outcome, criteria=tuple(rows))


@pytest.mark.parametrize(
    ("forge", "says"),
    [
        (lambda: outcome_of(make_evidence()), "were counted, and by the readings it is"),
        (with_lower_ceiling, "the link carried"),
        (lambda: with_threshold(outcome_of(HALF), "rx_of_ceiling", 0.0), "rx_of_ceiling"),
        (lambda: without_row(outcome_of(HALF), "rx_of_ceiling"), "rx_of_ceiling"),
    ],
    ids=["another run's", "a lower ceiling", "another threshold", "a row less"],
)
def test_an_outcome_that_its_readings_do_not_bear_out_is_contradicted_by_name(
    tmp_path: Path, forge: Callable[[], Outcome], says: str
) -> None:
    assert says in contradiction(lay(tmp_path, HALF, forge()))


def doubt(folder: Path, file: Path) -> str:
    (folder / "executed.ipynb").write_text('{"cells": []}')
    outcome = Outcome.load(file)
    return find_doubt(
        outcome,
        asked=dict(outcome.params),
        started=NOW,
        notebook=folder / "executed.ipynb",
        outcome_file=file,
    )


def test_the_runner_has_them_judged_by_a_process_of_its_own(tmp_path: Path) -> None:
    assert doubt(tmp_path, lay(tmp_path, make_evidence())) == ""
    assert "by the readings it is" in doubt(tmp_path, lay(tmp_path, HALF, outcome_of(make_evidence())))


def test_readings_that_are_missing_bear_nothing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = lay(tmp_path, make_evidence())
    samples_path(file).unlink()
    monkeypatch.setattr("sys.argv", ["recount", str(file)])
    assert main() == 1
    assert "its readings cannot be judged again" in capsys.readouterr().out


def test_a_full_link_without_any_readings_is_not_believed(tmp_path: Path) -> None:
    full = outcome_of(make_evidence())
    file = replace(full, measurements={**full.measurements, "windows": None}).save(tmp_path / "outcome.json")
    assert "there are no readings of the counters" in doubt(tmp_path, file)
