"""Verdicts: what decides, what does not, and that an outcome survives its JSON."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from djinn_checks.errors import OutcomeError
from djinn_checks.outcome import (
    SCHEMA,
    Criterion,
    Failure,
    Outcome,
    Status,
    format_quantity,
    judge,
    settle,
    skip,
    worst,
)


def row(observed: object, comparison: str = "<", threshold: float = 1.0, **kwargs: object) -> Criterion:
    return judge("c", "claim", observed, comparison, threshold, unit="s", evidence="clock", **kwargs)  # type: ignore[arg-type]


def test_error_beats_fail_beats_inconclusive_beats_pass_and_skip_does_not_count() -> None:
    order = [Status.ERROR, Status.FAIL, Status.INCONCLUSIVE, Status.PASS]
    for better, worse in itertools.combinations(reversed(order), 2):
        assert worst([better, worse, Status.SKIP]) is worse


@pytest.mark.parametrize("statuses", [[], [Status.SKIP]])
def test_no_evidence_is_inconclusive(statuses: list[Status]) -> None:
    assert worst(statuses) is Status.INCONCLUSIVE


def test_missing_evidence_is_never_a_pass() -> None:
    criterion = row(None, missing="no counters on this GPU")
    assert (criterion.status, criterion.reason) == (Status.INCONCLUSIVE, "no counters on this GPU")


@pytest.mark.parametrize("comparison", ["<", "<=", ">", ">=", "=="])
def test_nan_meets_no_threshold(comparison: str) -> None:
    assert row(math.nan, comparison).status is Status.FAIL


def test_a_noise_floor_above_the_threshold_decides_nothing_either_way() -> None:
    assert row(0.5, floor=2.0).status is Status.INCONCLUSIVE
    assert row(5.0, floor=2.0).status is Status.INCONCLUSIVE
    assert row(5.0, floor=0.1).status is Status.FAIL
    assert row(0.5, floor=0.1).status is Status.PASS


def test_an_informative_failure_does_not_decide() -> None:
    assert settle([row(0.5), row(5.0, required=False)]) is Status.PASS
    assert settle([row(5.0, required=False)]) is Status.INCONCLUSIVE


def test_what_went_wrong_is_read_first() -> None:
    criteria = (row(0.5), skip("s", "t", unit="", reason="r"), row(5.0, required=False), row(None), row(5.0))
    outcome = Outcome(check="logits", status=Status.FAIL, summary="", criteria=criteria)
    statuses = [criterion.status for criterion in outcome.failed_first]
    assert statuses == [Status.FAIL, Status.INCONCLUSIVE, Status.PASS, Status.SKIP, Status.FAIL]


def sample(**changes: object) -> Outcome:
    values: dict[str, object] = {
        "check": "other",
        "status": Status.FAIL,
        "summary": "it is not",
        "criteria": (row(math.inf), replace(row(None), name="d"), replace(row(3, "==", 3), name="e")),
        "measurements": {"series": [1.0, math.nan, -math.inf], "nested": {"a": None}},
        "started_at": "2026-01-01T00:00:00+00:00",
        **changes,
    }
    return Outcome(**values)  # type: ignore[arg-type]


def test_an_outcome_survives_its_json_and_the_json_is_strict(tmp_path: Path) -> None:
    path = sample().save(tmp_path / "deep" / "o.json")
    text = path.read_text()
    assert "NaN" in json.loads(text, parse_constant=lambda name: pytest.fail(f"bare {name}"))["measurements"]["series"]
    loaded = Outcome.load(path)
    assert loaded.criteria == sample().criteria
    assert loaded.to_dict() == sample().to_dict()
    assert [file.name for file in path.parent.iterdir()] == ["o.json"]


def test_the_stable_part_leaves_out_times_and_machine() -> None:
    one = sample(timings={"s": 1.0}, environment={"host": "a"})
    other = sample(timings={"s": 2.0}, environment={"host": "b"}, started_at="2027")
    assert one.stable_dict() == other.stable_dict()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "other"}', '{"schema": "djinn-checks/outcome/1"}'])
def test_a_file_that_is_no_outcome_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "o.json").write_text(text)
    with pytest.raises(OutcomeError):
        Outcome.load(tmp_path / "o.json")


def test_live_objects_do_not_enter_an_outcome() -> None:
    with pytest.raises(TypeError, match="plain data only, got .*Path"):
        sample(params={"path": Path()}).to_dict()


def test_what_is_written_is_valid_by_the_published_schema() -> None:
    schema = json.loads((resources.files("djinn_checks") / "outcome.schema.json").read_text())
    assert schema["$id"] == SCHEMA == schema["properties"]["schema"]["const"]
    validator = jsonschema.Draft202012Validator(schema)
    row = judge("a", "b", float("nan"), "<", 1.0, unit="x", evidence="y")
    whole = Outcome(check="pcie", status=Status.FAIL, summary="s", criteria=(row, skip("c", "d", unit="", reason="r")))
    crashed = replace(whole, status=Status.ERROR, failure=Failure(type="T", message="m"))
    for outcome in (whole, crashed):
        validator.validate(outcome.to_dict())
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(replace(crashed, failure=None).to_dict())
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(whole.to_dict() | {"surprise": 1})


def test_a_share_is_told_without_an_exponent() -> None:
    assert format_quantity(633.198, "share") == "63,320 %"
    assert format_quantity(0.952, "share of windows") == "95.2 % of windows"
    assert format_quantity(1, "share of windows") == "100 % of windows"
