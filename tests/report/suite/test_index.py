"""The front page shows every verdict, the worst on the whole, and systems beside each other."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.suite.index import render_index
from djinn_checks.report.suite.subjects import Cast, cast_runs
from djinn_checks.suite.folder import write_index
from tests.whole import whole


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
    assert '<div class="banner fail">' in page


def test_the_page_asks_for_nothing() -> None:
    page = render_index("suite", {"logits": outcome()}, {})
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|<script|<link|@import", page)


def test_one_system_or_replays_alone_have_no_league() -> None:
    replay = replace(outcome(check="pcie", system="other"), measurements={"passes": None})
    page = render_index("s", {"pcie": outcome(check="pcie"), "pcie-replay": replay}, {})
    assert "league" not in page


def test_recorded_runs_stand_each_for_itself_and_all_of_them_count() -> None:
    """Not the one host, which alone stands for its check, before four traces."""
    traces = {f"pcie-{name}": whole("pcie", params={"trace": f"traces/{name}.csv.gz"}) for name in ("full", "slow")}
    host = replace(outcome(check="host", system="links of this host"), params={"recording": "data/two.samples.json.gz"})
    cast = cast_runs(traces | {"host": host})
    assert cast.subjects == []
    assert cast.deciding.keys() == {"host", *traces}
    assert cast_runs({"host": host}).subjects == ["recorded host two.samples.json.gz"]
    assert cast_runs({"pcie": outcome(check="pcie"), "host": host}).subjects[0] == "ring"


def test_a_rival_that_fails_stands_in_a_table_of_its_own_and_fails_nothing_else() -> None:
    suite = {
        "logits": outcome(),
        "pcie": outcome(check="pcie"),
        "pcie-other": replace(outcome(Status.FAIL, check="pcie", system="other"), measurements={}),
    }
    page = render_index("s", suite, {})
    assert '<div class="banner inconclusive">' in page, "the claims of these runs lack criteria; the rival has no part"
    own, rivals = page.split("Other systems, beside it</div>")
    assert "pcie-other" not in own
    assert "pcie-other" in rivals
    assert '<span class="whole">other</span>' in rivals, "a short name is not broken in the middle"
    assert "1 run of other systems below: their verdicts are their own." in page
    assert Cast(own={"logits": suite["logits"], "pcie": suite["pcie"]}, rivals={"pcie-other": suite["pcie-other"]}) == (
        cast_runs(suite)
    )
    assert cast_runs({"pcie": suite["pcie-other"], "logits-a": suite["logits"]}).subjects == ["other"]
    assert render_index("s", {**suite, "pcie": outcome(Status.FAIL, check="pcie")}, {}).count("banner fail") == 1


def test_systems_beside_each_other_of_which_none_is_singled_out_get_no_common_verdict() -> None:
    page = render_index("s", {"pcie-a": outcome(), "pcie-b": outcome(Status.FAIL, system="other")}, {})
    assert "banner" not in page.partition("</style>")[2]
    assert "each verdict stands for itself" in page


def test_planted_faults_beside_them_do_not_hide_what_became_of_them() -> None:
    runs = {"pcie-a": outcome(), "pcie-b": outcome(Status.FAIL, system="other"), "faults": outcome(check="faults")}
    page = render_index("s", runs, {})
    assert '<div class="banner fail">' in page
    assert "2 runs below, each of which counts." in page
    assert "each of which counts" not in render_index("s", {"pcie": outcome(check="pcie"), **runs}, {})


def test_an_environment_that_differs_is_said_to_differ() -> None:
    other = replace(outcome(), environment={"device": "cuda:0"})
    assert "Not all checks ran in the same environment" in render_index("s", {"a": outcome(), "b": other}, {})
    same = replace(outcome(), environment={"device": "cpu", "notebook": {"name": "other.ipynb"}})
    assert "Not all checks" not in render_index("s", {"a": outcome(), "b": same}, {})


def test_the_folder_is_read_and_an_outcome_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    whole().save(tmp_path / "logits.outcome.json")
    (tmp_path / "pcie.outcome.json").write_text("{}")
    (tmp_path / "logits.html").write_text("")
    page = write_index(tmp_path).read_text()
    assert "1 outcome cannot be read, which counts as ERROR." in page
    assert '<div class="banner error">' in page
    assert "pcie.outcome.json cannot be read" in page
    assert '<a href="./logits.html">' in page


def test_of_many_hosts_a_short_name_stays_whole_and_a_long_one_leaves_room_for_what_was_found() -> None:
    cpus = ("Intel Xeon", "AMD EPYC")
    outcomes = {
        f"pcie-{number}": whole("pcie", params={"trace": f"traces/long-{number}.csv.gz"},
                                environment={"cpu": {"model": cpu, "threads": 8}})
        for number, cpu in enumerate(cpus)
    }  # fmt: skip
    page = render_index("two", outcomes, {})
    assert re.search(r'<span class="whole">xeon-\w{4}</span>', page)
    assert '<span class="whole">trace</span> <span class="whole">long-1.csv.gz</span>' in page
