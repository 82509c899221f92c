"""Tables and the banner of the PCIe check say what was measured, and what was not."""

from __future__ import annotations

from typing import Any

import pytest

from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.pcie.stream_tables import tabulate_health, tabulate_stream
from djinn_checks.report.pcie.tables import tabulate_traffic
from djinn_checks.report.verdict import render_banner
from tests.report.pcie.samples import TABLES, changed, ran, replayed


@pytest.mark.parametrize("table", TABLES)
def test_tables_are_whole_for_a_run_a_replay_and_an_outcome_without_measurements(table: Any) -> None:
    nothing = Outcome(check="pcie", status=Status.ERROR, summary="crashed")
    for outcome in (ran(), replayed("ring"), nothing):
        assert str(table(outcome)).startswith(("<div", "<p>"))
    assert "<caption>" in table(ran())
    assert "<GPU>" not in table(ran())


def test_claims_stand_beside_the_count_as_ratios() -> None:
    table = tabulate_traffic(ran())
    assert "1.0018" in table
    assert "Claimed by the system" in table
    assert "by the recorded truth" in tabulate_traffic(replayed("ring"))


def test_a_replay_and_a_host_link_are_marked_in_the_banner_and_a_gpu_is_not() -> None:
    assert "replay of a recorded trace</span>" in render_banner(replayed("ring"))
    link = dict(replayed("ring").measurements["link"])
    host = changed("ring", link=link | {"subject": "host memory", "label": "host-memory link: no GPU"})
    assert "host-memory link: no GPU</span>" in render_banner(host)
    assert 'class="subject"' not in render_banner(ran())


def test_the_stream_is_named_by_its_reader_and_its_figures() -> None:
    table = tabulate_stream(replayed("ring"))
    assert "copies: 256 bytes a request" in table
    assert "what came, less what requests and answers cost" in table
    assert "65.4%" in tabulate_stream(ran())
    uncounted = changed("ring", reader=None)
    assert tabulate_stream(uncounted).startswith("<p>Nothing counted the link")


def test_the_links_health_has_each_training_and_what_is_not_told_is_unknown() -> None:
    table = tabulate_health(ran())
    assert "gen 5 x16 at 7 of 10 looks, gen 3 x16 at 3 of 10 looks" in table
    assert "power cap at 10 of 10 looks" in table
    assert "unknown" in table
    assert tabulate_health(replayed("ring")).startswith("<p>Nothing told the health")
