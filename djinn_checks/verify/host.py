"""A host outcome judged again on the recording that lies beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from djinn_checks.checks.host.criteria import judge_evidence
from djinn_checks.checks.host.evidence import Expectation
from djinn_checks.checks.host.measurements import gather_measurements
from djinn_checks.checks.host.recording import load_recording
from djinn_checks.errors import DjinnChecksError
from djinn_checks.measurements import host
from djinn_checks.outcome import Outcome
from djinn_checks.params import HostParams
from djinn_checks.verify.finding import Finding, believed, compare, unreadable
from djinn_checks.verify.rows import hold_row

_NEAR = 1e-3
"""Of figures from readings that are written to the microsecond."""


def verify_host(folder: Path, name: str, outcome: Outcome, traces: Path | None) -> Iterator[Finding]:
    """Judge the recording again, and hold each row and figure against it."""
    file, recording = f"{name}.outcome.json", folder / f"{name}.samples.json.gz"
    if not recording.is_file():
        yield believed(file, "all rows", f"{recording.name}, the recording of the run, is not in the folder")
        return
    found = host.read(outcome.measurements)
    try:
        asked = {key: value for key, value in outcome.params.items() if key in HostParams.model_fields}
        evidence = load_recording(HostParams.create(**{**asked, "recording": str(recording), "against": ""}))
        expected = Expectation(figures=dict(found.get("expected") or {}), source=found.get("expected_by") or "")
        evidence = replace(evidence, subject=evidence.plan.subject, expected=expected)
        rows, figures = judge_evidence(evidence), gather_measurements(evidence)["figures"]
    except (DjinnChecksError, KeyError, TypeError, ValueError) as error:
        yield unreadable(recording.name, f"recording of {file}", str(error))
        return
    if found.get("expected"):
        yield believed(file, "expected", "what was expected of the host is the word of whoever asked")
    again, source = {row.name: row for row in rows}, f"the recording {recording.name}"
    for key, told in (found.get("figures") or {}).items():
        yield compare(file, f"figures.{key}", told, figures.get(key), source, relative=_NEAR)
    for row in outcome.criteria:
        if row.name in again:
            yield hold_row(file, row, again[row.name], source)
        else:
            yield believed(file, row.name, "this version has no such row")
