"""Tables and the banner of the PCIe check say what was measured, and what was not."""

from __future__ import annotations

from typing import Any

import pytest

from djinn_checks.outcome import Outcome, Status
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
