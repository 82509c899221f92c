"""Servers of a suite stand beside each other, all against one ceiling in each direction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from djinn_checks.outcome import Outcome, Status, judge, skip
from djinn_checks.report.suite.index import render_index
from djinn_checks.report.suite.results import render_results
from djinn_checks.report.suite.servers import list_servers, rank_servers, render_servers
from djinn_checks.suite.folder import write_index
from djinn_checks.verify.finding import Kind
from djinn_checks.verify.folder import verify_folder
from tests.whole import whole_rows

VLLM = "http://127.0.0.1:8000"
HOSTILE = "http://<b>x</b>"
SLEEP = {"told_s": 1.0, "woken_s": 2.0, "first_token_s": 2.1, "swap": None, "restore": None}
CROWD = {
    "offered_load": 0.31, "duration_s": 9.0, "swaps": 4, "restores": 4, "wakes": [], "wake_p50_s": 0.1,
    "wake_p99_s": 0.25, "restore_p50_s": None, "restore_p99_s": None, "unloaded_restore_s": None, "turns": [],
    "states": [], "memory": [],
}  # fmt: skip


def agents(
    address: str = "",
    adapter: str = "signal",
    *,
    restore: float | None = 0.9,
    ceiling: float = 50e9,
    version: str | None = None,
    crowd: bool = True,
    **params: Any,
) -> Outcome:
    """Return an outcome that has all of its check's rows, and of those about speed and the crowd what is given."""
    given = {"model": "smollm2", "dtype": "float16", "adapter": adapter, "server_address": address, "sleeps": 3}
    given |= {"agents": 4 * crowd, "swap_of_ceiling": 0.95} | params
    measured = {"sleeps": [{"kv_bytes": size} for size in (1e9, 1.1e9, 1.2e9)], "agents": 4 * crowd}
    rows = {row.name: row for row in whole_rows("agents", given, measured)}
    for name, share in (("restore_of_ceiling", restore), ("swap_out_of_ceiling", 0.8)):
        rows[name] = judge(name, name, share, ">=", 0.95, unit="share of ceiling", evidence="", required=False)
    for name in {"swaps_counted", "restores_counted"} & rows.keys():
        rows[name] = judge(name, name, 3, "==", 3, unit="moves", evidence="")
    if crowd:
        rows["crowd_overcommits"] = judge("crowd_overcommits", "", 2.54, ">", 1.0, unit="times", evidence="")
        if not address:
            rows["crowd_held_at_once"] = judge("crowd_held_at_once", "", 4, "==", 4, unit="sessions", evidence="")
    return Outcome(
        check="agents",
        status=Status.PASS,
        summary="",
        params=given,
        environment={"gpu": {"name": "Example GPU"}, "packages": {"djinn-checks": "0.1.0"}},
        measurements=measured | {"server_version": version},
        timings={
            "sleeps": [SLEEP | {"wake_s": seconds} for seconds in (0.05, 0.06, 0.5)],
            "wake_hot_s": [0.03, 0.02, 0.01],
            "wake_cold_s": [0.4, 0.2],
            "ceilings_bytes_per_s": {"in": ceiling, "out": 50e9} if restore is not None else {},
            "crowd": CROWD if crowd else None,
        },
        criteria=tuple(rows.values()),
    )


def suite() -> dict[str, Outcome]:
    return {
        "agents-vllm": agents(VLLM, "vllm", version="0.26.0", ceiling=40e9),
        "agents": agents(restore=0.8),
    }


def test_two_servers_are_held_against_the_highest_ceiling_and_the_fastest_restore_comes_first() -> None:
    (ranking,) = rank_servers(suite())
    assert ranking.subject == "smollm2, float16, Example GPU"
    assert ranking.ceilings_bytes_per_s == {"in": 50e9, "out": 50e9}
    assert ranking.spreads == {"in": pytest.approx(0.25), "out": 0.0}
    ours, vllm = list_servers(ranking)
    assert ours == (
        "djinn-checks serve (agents, adapter signal, version 0.1.0)", "PASS", "80.0%", "80.0%", "1.1 GB", "60 ms",
        "20 ms", "300 ms", "4", "2.5 times", "250 ms", "31.0%",
    )  # fmt: skip
    assert vllm[0] == f"{VLLM} (agents-vllm, adapter vllm, version 0.26.0)"
    assert vllm[2] == "72.0%", "90 % of 40 GB/s; against its own ceiling it would be first"
    assert vllm[8] == "unknown", "such a server does not list its sessions"


def test_one_server_however_it_is_asked_and_runs_of_another_model_have_no_page() -> None:
    assert render_servers("s", {}) is None
    assert render_servers("s", {"agents": agents(), "agents-many": agents(adapter="idle")}) is None
    assert render_servers("s", {"agents": agents(), "agents-vllm": agents(VLLM, "vllm", model="other")}) is None
    assert render_servers("s", {"agents": agents(), "agents-lost": replace(agents(VLLM, "vllm"), timings={})}) is None
    assert "servers.html" not in render_index("s", {"agents": agents()}, {})


def test_kinds_and_versions_at_one_address_are_servers_of_their_own() -> None:
    assert rank_servers({"agents-a": agents(VLLM, "vllm"), "agents-b": agents(VLLM, "sglang")})
    assert rank_servers({"agents-a": agents(VLLM, "vllm", version="1"), "agents-b": agents(VLLM, "vllm", version="2")})


def test_what_is_not_known_is_unknown_and_comes_last_and_a_crowd_that_was_not_asked_for_is_none() -> None:
    bare = agents(VLLM, "none", restore=None, crowd=False)
    skipped = tuple(skip(row.name, row.title, unit=row.unit, reason="no GPU") for row in bare.criteria)
    bare = replace(bare, criteria=skipped, measurements={}, timings={"sleeps": [{"wake_s": 0.1}]})
    (ranking,) = rank_servers({"agents-bare": bare, "agents": agents()})
    _, last = list_servers(ranking)
    assert last[0] == f"{VLLM} (agents-bare, adapter none)"
    assert last[2:] == ("unknown", "unknown", "unknown", "100 ms", "unknown", "unknown", "–", "–", "–", "–")


def test_where_no_ceiling_was_measured_the_page_says_so() -> None:
    outcomes = {name: agents(outcome.params["server_address"], restore=None) for name, outcome in suite().items()}
    page = render_servers("s", outcomes) or ""
    assert "No run measured the link's ceiling." in page
    assert "fastest" not in page


def test_the_table_stands_on_the_front_page_on_a_page_of_its_own_and_in_the_results() -> None:
    outcomes = {"agents": agents(), "agents-<i>": agents(HOSTILE, "vllm", version="<u>1</u>", model="smollm2")}
    for page in (render_index("s", outcomes, {}), render_servers("s", outcomes) or ""):
        assert (
            "http://&lt;b&gt;x&lt;/b&gt;</a><small>agents-&lt;i&gt;, adapter vllm, version &lt;u&gt;1&lt;/u&gt;" in page
        )
        assert '<a href="./agents-%3Ci%3E.html">' in page
        assert not any(mark in page for mark in ("<b>", "<i>", "<u>"))
        assert "90.0%" in page
    assert '<a href="./servers.html">' in render_index("s", outcomes, {})
    assert "Example GPU. The common ceilings are" in render_results(".", outcomes)
    assert "| 90.0% | 80.0% | 1.1 GB | 60 ms | 20 ms | 300 ms | 4 | 2.5 times |" in render_results(".", outcomes)


def test_the_page_is_written_and_listed_and_verify_finds_it_changed(tmp_path: Path) -> None:
    for name, outcome in suite().items():
        outcome.save(tmp_path / f"{name}.outcome.json")
    write_index(tmp_path)
    page = tmp_path / "servers.html"
    assert "djinn-checks serve" in page.read_text()
    assert " servers.html\n" in (tmp_path / "SHA256SUMS").read_text()
    assert look(tmp_path) == {Kind.AGREES}
    page.write_text(page.read_text().replace("80.0%", "98.0%"))
    assert Kind.DISAGREES in look(tmp_path)


def look(folder: Path) -> set[Kind]:
    """Return what `verify` found about the page."""
    return {finding.kind for finding in verify_folder(folder, pages=True) if finding.file == "servers.html"}
