"""The claims table is green only where the evidence is about the claim, and complete."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import djinn_checks.checks
from djinn_checks.checks.pcie.check import check_pcie
from djinn_checks.outcome import Outcome, Status, judge, settle
from djinn_checks.params import PcieParams
from djinn_checks.report.suite.claims import CLAIMS, Claim, answer_claims, judge_claim, render_limits, tabulate_claims
from djinn_checks.report.suite.index import render_index

ATTACK = "<script>alert(1)</script>"
TRACES = Path(__file__).parents[2] / "data" / "traces"


def outcome(claim: Claim, *, value: int = 0, params: dict[str, Any] | None = None) -> Outcome:
    rows = tuple(judge(name, "", value, "==", 0, unit="things", evidence="") for name in claim.criteria)
    asked = {**claim.at_least, **claim.at_most} if params is None else params
    return Outcome(check=claim.check, status=settle(rows), summary="", criteria=rows, params=asked)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.text)
def test_a_claim_is_green_when_its_criteria_hold_at_the_strength_of_the_claim(claim: Claim) -> None:
    assert judge_claim(claim, outcome(claim)) == (Status.PASS, ())
    assert judge_claim(claim, outcome(claim, value=1)).status is Status.FAIL


@pytest.mark.parametrize("claim", [claim for claim in CLAIMS if claim.at_least], ids=lambda claim: claim.text)
def test_a_run_that_asked_for_less_than_the_claim_does_not_show_it(claim: Claim) -> None:
    less = {name: least * 0.9 for name, least in claim.at_least.items()} | dict(claim.at_most)
    assert judge_claim(claim, outcome(claim, params=less)).status is Status.INCONCLUSIVE
    assert judge_claim(claim, outcome(claim, params={})).status is Status.INCONCLUSIVE
    assert judge_claim(claim, outcome(claim, params=less, value=1)).status is Status.FAIL


def test_a_criterion_that_the_outcome_lacks_is_missing_evidence() -> None:
    claim = CLAIMS[0]
    whole = outcome(claim)
    status, notes = judge_claim(claim, replace(whole, criteria=whole.criteria[:1]))
    assert status is Status.INCONCLUSIVE
    assert claim.criteria[1] in notes[0]
    assert judge_claim(claim, replace(whole, criteria=())).status is Status.INCONCLUSIVE


@pytest.mark.parametrize("status", [Status.FAIL, Status.INCONCLUSIVE, Status.ERROR])
def test_perfect_logits_of_a_check_that_did_not_pass_support_no_claim(status: Status) -> None:
    assert judge_claim(CLAIMS[0], replace(outcome(CLAIMS[0]), status=status)).status is status


def test_a_claim_without_its_check_is_not_run_and_what_came_from_outside_is_text() -> None:
    attacked = replace(outcome(CLAIMS[0], params={"top_k": ATTACK}), timings={"run_s": 12.0})
    row = judge(CLAIMS[0].criteria[0], ATTACK, ATTACK, "==", ATTACK, unit=ATTACK, evidence=ATTACK)
    table = tabulate_claims({ATTACK: replace(attacked, criteria=(row,))})
    assert "<script" not in table
    assert table.count("<div>not run</div>") == len([claim for claim in CLAIMS if claim.check != "logits"])


def test_each_claim_is_answered_once_by_the_runs_that_asked_for_no_less() -> None:
    sleeps = next(claim for claim in CLAIMS if "sleep_s" in claim.at_least)
    enough, less = outcome(sleeps), outcome(sleeps, params={"sleep_s": 3.0})
    answers = {answer.claim.text: answer for answer in answer_claims({"agents-many": less, "agents": enough})}
    assert list(answers) == [claim.text for claim in CLAIMS]
    assert (answers[sleeps.text].status, answers[sleeps.text].runs) == (Status.PASS, ("agents",))
    worse = outcome(sleeps, value=1, params={"sleep_s": 3.0})
    failed = {answer.claim.text: answer for answer in answer_claims({"agents": enough, "agents-many": worse})}
    assert failed[sleeps.text].status is Status.FAIL, "a run of less that shows the claim to be wrong counts"
    assert failed[sleeps.text].runs == ("agents-many", "agents")
    alone = {answer.claim.text: answer for answer in answer_claims({"agents": less})}
    assert alone[sleeps.text].status is Status.INCONCLUSIVE


def test_the_front_page_says_what_is_claimed_and_what_is_not() -> None:
    page = render_index("suite", {}, {})
    assert all(claim.text in page for claim in (CLAIMS[0], CLAIMS[-1]))
    assert "What is not claimed" in page
    assert str(render_limits()).count("<li>") > 5


def test_a_replay_in_the_table_is_said_to_be_one() -> None:
    """A real outcome of the check, so that its criteria's names are those of the table."""
    replayed = check_pcie(PcieParams.create(trace=str(TRACES / "ring.csv.gz"), device="cpu"))
    claim = next(claim for claim in CLAIMS if claim.check == "pcie")
    assert judge_claim(claim, replayed) == (Status.PASS, ())
    assert "<small>replay of a recorded trace</small>" in tabulate_claims({"pcie": replayed})


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.text)
def test_the_criteria_of_a_claim_are_criteria_of_its_check(claim: Claim) -> None:
    """Read from the check's source: its outcome on every hardware would need every hardware."""
    folder = Path(djinn_checks.checks.__path__[0]) / claim.check
    source = "\n".join(path.read_text() for path in folder.glob("*.py"))
    assert source
    missing = [name for name in claim.criteria if f'"{name}"' not in source and name.partition("_")[2] not in source]
    assert not missing
