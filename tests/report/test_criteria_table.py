"""Under many rows the same words stand once."""

from __future__ import annotations

from djinn_checks.outcome import Outcome, judge, settle
from djinn_checks.report.criteria_table import render_criteria, shorten_evidence

WATCHED = "weight witness: 7 of 9 prefills and 5 of 72 decode steps, drawn at random"


def test_what_a_row_begins_with_as_the_one_above_is_said_once() -> None:
    every = [f"{WATCHED}; a lower bound", f"{WATCHED}; at one moment", WATCHED, f"{WATCHED}, and more", "", "", WATCHED]
    assert shorten_evidence(every) == [
        every[0], "as above; at one moment", "as above", f"{WATCHED}, and more", "", "", WATCHED,
    ]  # fmt: skip
    assert shorten_evidence(["3 passes", "3 passes"]) == ["3 passes", "3 passes"], "as short as what would stand there"
    assert shorten_evidence([]) == []


def test_twenty_five_rows_of_the_same_evidence_say_it_once_under_each_heading() -> None:
    rows = tuple(judge(f"row_{n}", "", 0, "==", 0, unit="", evidence=WATCHED, required=n < 20) for n in range(25))
    page = render_criteria(Outcome(check="faults", status=settle(rows), summary="", criteria=rows))
    assert page.count(WATCHED) == 2
    assert page.count("as above") == 23
