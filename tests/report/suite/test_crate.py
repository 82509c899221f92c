"""A suite's folder is a valid Workflow Run RO-Crate; roc-validator says so, offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
import requests
import rocrate
from rocrate_validator import models, services
from rocrate_validator.utils.http import HttpRequester

from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.suite.crate import FILE_NAME, describe_folder
from djinn_checks.suite.folder import write_index
from tests.report import samples

ATTACK = "<script>alert(1)</script>\"'"


def _context() -> dict[str, Any]:
    """Return RO-Crate's context as the package `rocrate` holds it, with Bioschemas' names as version 1.1 has them."""
    text = (Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld").read_text(encoding="utf-8")
    whole: dict[str, Any] = json.loads(text.replace("https://bioschemas.org/terms/", "https://bioschemas.org/"))
    return {"@context": whole["@context"]}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer the validator's one question to the network, and refuse any other."""

    def get(self: HttpRequester, url: str, **_: Any) -> requests.Response:
        assert str(url) == "https://w3id.org/ro/crate/1.1/context", f"the validator asks for {url}"
        answer = requests.Response()
        answer.status_code = 200
        answer.headers["Content-Type"] = "application/ld+json"
        answer._content = json.dumps(_context()).encode()
        return answer

    monkeypatch.setattr(HttpRequester, "get", get, raising=False)
    monkeypatch.setattr(HttpRequester, "head", get, raising=False)


def _problems(folder: Path, profile: str) -> list[str]:
    settings = services.ValidationSettings(
        rocrate_uri=folder, profile_identifier=profile, requirement_severity=models.Severity.REQUIRED
    )
    return [f"{issue.check.identifier}: {issue.message}" for issue in services.validate(settings).get_issues()]


def _suite(folder: Path, outcomes: dict[str, Outcome]) -> Path:
    for name, outcome in outcomes.items():
        outcome.save(folder / f"{name}.outcome.json")
        (folder / f"{name}.ipynb").write_text(nbformat.writes(nbformat.v4.new_notebook()))
        for ending in ("html", "log"):  # what stands in a page or a log is nothing to a crate
            (folder / f"{name}.{ending}").write_text("as a run leaves it\n")
    write_index(folder)
    return folder


def test_a_suite_of_every_verdict_is_a_valid_crate(tmp_path: Path, offline: None) -> None:
    hostile = samples.failed(summary=ATTACK, params={ATTACK: ATTACK, "none": None, "list": [1, 2]})
    kinds = {outcome.status.value.lower(): outcome for outcome in samples.every_status()}
    suite = _suite(tmp_path, {**kinds, "a name & more": hostile})
    # This profile's requirements include those of process-run-crate and workflow-ro-crate.
    assert _problems(suite, "workflow-run-crate-0.5") == []


def test_the_validator_sees_a_crate_without_its_workflow(tmp_path: Path, offline: None) -> None:
    suite = _suite(tmp_path, {"a": samples.passed()})
    crate = json.loads((suite / FILE_NAME).read_text())
    for entity in crate["@graph"]:
        entity.pop("mainEntity", None)
    (suite / FILE_NAME).write_text(json.dumps(crate))
    assert any("mainEntity" in problem for problem in _problems(suite, "workflow-run-crate-0.5"))


def test_a_suite_without_any_notebook_is_a_process_run_crate(tmp_path: Path, offline: None) -> None:
    Outcome(check="pcie", status=Status.ERROR, summary="not started").save(tmp_path / "pcie.outcome.json")
    write_index(tmp_path)
    assert _problems(tmp_path, "process-run-crate-0.5") == []


def _actions(text: str) -> dict[str, dict[str, Any]]:
    return {entity["@id"]: entity for entity in json.loads(text)["@graph"] if entity["@type"] == "CreateAction"}


def test_an_action_says_what_ran_with_what_and_what_came_of_it() -> None:
    outcomes = {"logits": samples.failed(), "pcie": samples.crashed()}
    files = {name: {f"{name}.ipynb": 9, f"{name}.outcome.json": 5, f"{name}.html": 7} for name in outcomes}
    text = describe_folder("suite", outcomes, files)
    assert describe_folder("suite", outcomes, files) == text, "the same text for the same folder"
    ran, crashed = _actions(text).values()
    assert ran["instrument"] == {"@id": "logits.ipynb"}
    assert {file["@id"] for file in ran["result"]} == {"logits.outcome.json", "logits.html"}
    assert len(ran["object"]) == len(samples.PARAMS)
    assert ran["actionStatus"] == "http://schema.org/CompletedActionStatus", "a FAIL is a finished run"
    assert (ran["startTime"], ran["endTime"]) == ("2026-01-02T03:04:05+00:00", "2026-01-02T03:04:46+00:00")
    assert crashed["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert crashed["error"].startswith("CopyError: ")
