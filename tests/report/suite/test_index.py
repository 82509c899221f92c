"""The front page shows every verdict, the worst on the whole, and systems beside each other."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.suite.index import render_index
from djinn_checks.suite.folder import write_index


def outcome(status: Status = Status.PASS, *, check: str = "logits", system: str = "ring") -> Outcome:
    return Outcome(
        check=check,
        status=status,
        summary=f"{system} & <b>bold</b>",
        params={"system": system, "model": "random:tiny"},
        environment={"device": "cpu"},
        timings={"run_s": 12.3},
        measurements={
            "passes": {"mean_s": 0.2345},
            "link": {"ceiling_bytes_per_s": 50e9, "label": "PCIe link of a GPU"},
        },
    )


def test_every_verdict_is_there_with_its_link_and_what_came_from_outside_is_escaped() -> None:
    page = render_index(
        "a <suite>",
        {"logits": outcome(), "pcie": outcome(Status.FAIL)},
        {"logits": {"logits.html": 9, "logits.log": 1}},
    )
    assert '<a href="./logits.html">logits</a>' in page
    assert '<a href="./logits.log">log</a>' in page
    assert "pcie (no report)" in page
    assert "ring &amp; &lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>bold" not in page
    assert "a &lt;suite&gt;" in page
    assert "12 s" in page
    assert re.search(r"2 checks, .*FAIL</span> on the whole", page)


def test_the_page_asks_for_nothing() -> None:
    page = render_index("suite", {"logits": outcome()}, {})
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|<script|<link|@import", page)


def test_one_system_or_replays_alone_have_no_league() -> None:
    replay = replace(outcome(check="pcie", system="other"), measurements={"passes": None})
    page = render_index("s", {"pcie": outcome(check="pcie"), "pcie-replay": replay}, {})
    assert "league" not in page


def test_an_environment_that_differs_is_said_to_differ() -> None:
    other = replace(outcome(), environment={"device": "cuda:0"})
    assert "Not all checks ran in the same environment" in render_index("s", {"a": outcome(), "b": other}, {})
    same = replace(outcome(), environment={"device": "cpu", "notebook": {"name": "other.ipynb"}})
    assert "Not all checks" not in render_index("s", {"a": outcome(), "b": same}, {})


def test_the_folder_is_read_and_an_outcome_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    outcome().save(tmp_path / "logits.outcome.json")
    (tmp_path / "pcie.outcome.json").write_text("{}")
    (tmp_path / "logits.html").write_text("")
    page = write_index(tmp_path).read_text()
    assert "2 checks, of which 1 cannot be read," in page
    assert "pcie.outcome.json cannot be read" in page
    assert '<a href="./logits.html">' in page
