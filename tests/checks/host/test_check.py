"""The host check drives any number of links, names the one that is wrong, and waits for nobody in vain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from djinn_checks.checks.fleet import Fleet
from djinn_checks.checks.host import check, stages
from djinn_checks.checks.host.check import check_host
from djinn_checks.checks.host.plan import plan_stand_ins
from djinn_checks.errors import ParamsError
from djinn_checks.faults.host.runs import swapped, together, with_defect
from djinn_checks.outcome import Outcome, Status
from djinn_checks.params import HostParams


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave less quiet between stages: stand-ins have a clock of their own, and nothing flows on after a copy."""
    monkeypatch.setattr(stages, "_AHEAD_S", 0.02)
    monkeypatch.setattr(stages, "_QUIET_S", 0.012)
    monkeypatch.setattr(check, "_IDLE_S", 0.1)
    monkeypatch.setattr(check, "read_environment", lambda *_: {})


def params(links: int, **values: object) -> HostParams:
    return HostParams.create(**{"device": "cpu", "stand_ins": links, "stage_s": 0.05, "rounds": 2, **values})


def test_two_links_without_a_fault_are_let_be_and_judged_alike_from_their_recording(tmp_path: Path) -> None:
    outcome = check_host(params(2), save_to=tmp_path / "host.outcome.json")
    assert outcome.status is Status.INCONCLUSIVE
    undecided = {row.name for row in outcome.criteria if row.required and row.status not in (Status.PASS, Status.SKIP)}
    # a machine with something else to do interrupts the process that reads, in the middle of a reading too
    assert undecided - {"counters_complete"} == {"whole_host"}
    assert "no PCIe GPU" in outcome.criterion("whole_host").reason
    assert outcome.criterion("counters_complete").status is not Status.FAIL
    assert outcome.criterion("alone_like_others").observed == 1.0
    assert outcome.measurements["figures"]["alone_h2d"] == pytest.approx(0.064)
    assert Outcome.load(outcome.save(tmp_path / "host.outcome.json")) == outcome
    again = check_host(params(2, recording=str(tmp_path / "host.samples.json.gz")))
    assert [(row.name, row.status) for row in again.criteria] == [(row.name, row.status) for row in outcome.criteria]
    assert again.measurements["figures"] == outcome.measurements["figures"]


def test_of_eight_links_each_that_is_wrong_is_named_by_its_row(tmp_path: Path) -> None:
    wrong = together(
        with_defect(3, "slow", share=0.5),
        swapped(5, 6),
        with_defect(7, "narrows"),
        with_defect(2, "pins"),
        with_defect(4, "dies"),
        with_defect(1, "loses_bytes"),
    )
    asked = params(8)
    outcome = check_host(asked, plan=wrong(plan_stand_ins(asked, tmp_path)))
    assert outcome.status is Status.FAIL
    said = {row.name: (row.status, row.reason) for row in outcome.criteria}
    for name, status, link in (
        ("alone_like_others", Status.FAIL, "stand-in-3"),
        ("counted_vs_copied", Status.FAIL, "stand-in-5"),
        ("link_at_its_best", Status.FAIL, "stand-in-7"),
        ("copies_arrived", Status.FAIL, "stand-in-1"),
        ("workers_finished", Status.INCONCLUSIVE, "stand-in-4"),
        ("nobody_pins", Status.INCONCLUSIVE, "another process pins memory"),
    ):
        assert said[name][0] is status, name
        assert link in said[name][1], name
    assert "are counters swapped?" in said["counted_vs_copied"][1]
    assert [row["uuid"] for row in outcome.measurements["links"]] == [f"stand-in-{number}" for number in range(8)]


def test_a_process_that_hangs_is_named_and_keeps_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_PATIENCE_S", 0.6)
    asked = params(2)
    outcome = check_host(asked, plan=with_defect(0, "hangs")(plan_stand_ins(asked, tmp_path)))
    row = outcome.criterion("workers_finished")
    assert (row.status, row.observed) == (Status.INCONCLUSIVE, 1)
    assert "stand-in-0 in alone both: it did not answer in time" in row.reason
    assert outcome.measurements["links"][1]["alone"].keys() == {"h2d", "d2h", "both"}


def test_a_process_that_cannot_open_its_link_says_why() -> None:
    with Fleet() as fleet:
        fleet.add("broken", "djinn_checks.checks.host.stand_in:open_link", {"board": "/nowhere/at/all"}, {})
        fleet.gather(30.0)
        assert fleet.names == []
        assert "TypeError" in fleet.lost["broken"]


def test_a_gpu_that_somebody_else_uses_is_found_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "drive", None)
    plan = replace(plan_stand_ins(params(1), tmp_path), in_use={"GPU-1": "process 77 computes on it"})
    outcome = check_host(params(1), plan=plan)
    assert outcome.status is Status.INCONCLUSIVE
    (row,) = outcome.criteria
    assert row.name == "gpus_free"
    assert "process 77 computes on it" in row.reason


def test_what_cannot_be_asked_for_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="there is no figure speed"):
        check_host(params(1, expect={"speed": 1.0}))
    with pytest.raises(ParamsError, match="expected numbers above 0, got -1"):
        check_host(params(1, expect={"alone_h2d": -1.0}))
    with pytest.raises(ParamsError, match="against: .*cannot be read"):
        check_host(params(1, against=str(tmp_path / "none.json")))
    with pytest.raises(ParamsError, match="recording: .*cannot be read as a recorded host"):
        check_host(params(1, recording=str(tmp_path / "none.json.gz")))
    with pytest.raises(ParamsError, match="give their UUIDs by `gpus`"):
        check_host(params(1, device="cuda:1"))


def test_gpus_that_are_not_there_are_no_pass() -> None:
    outcome = check_host(params(1, gpus=["GPU-none"]))
    assert outcome.status is Status.INCONCLUSIVE
    assert outcome.criteria[0].name == "gpus_there"
