"""Every planted fault is caught by the criterion that was named beforehand, and clean systems are let be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from djinn_checks.cli import main
from djinn_checks.errors import ParamsError
from djinn_checks.faults import check, logits, matrix, pcie
from djinn_checks.faults.base import Fault, find_faults, is_caught
from djinn_checks.faults.copies import open_slow_link, stream_over
from djinn_checks.faults.logits import run_logits
from djinn_checks.faults.matrix import CLEAN, count_false_alarms, plant
from djinn_checks.outcome import Failure, Outcome, Status, judge
from djinn_checks.params import FaultsParams

CPU = torch.device("cpu")
ALL = {**logits.FAULTS, **pcie.FAULTS}
HERE = [fault for fault in ALL.values() if fault.applies(CPU)]


@pytest.mark.parametrize("fault", HERE, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught_by_the_criterion_that_was_named(fault: Fault) -> None:
    (result,) = plant([fault], CPU)
    assert result.verdict == "caught", f"{result.reason} (alarms: {result.alarms})"
    assert result.status is fault.effect


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_system_gives_no_alarm(name: str) -> None:
    assert count_false_alarms(name, 3, CPU) == 0


def test_a_slow_link_that_is_waited_for_gives_no_alarm() -> None:
    assert run_logits(stream_over(open_slow_link))(CPU).status is Status.PASS


def test_a_tied_model_gives_no_alarm() -> None:
    from djinn_checks.systems.ring import RingSystem

    assert run_logits(RingSystem, tied=True)(CPU).status is Status.PASS


def test_every_fault_says_what_it_breaks_and_what_it_stands_for() -> None:
    assert len(HERE) >= 33
    for fault in ALL.values():
        assert fault.breaks.endswith(".")
        assert fault.modelled_on
        assert fault.check in ("logits", "pcie")
    assert set(logits.FAULTS).isdisjoint(pcie.FAULTS)


def outcome(status: Status) -> Outcome:
    row = judge("named", "", 1, "==", 0, unit="", evidence="")
    failure = Failure(type="Boom", message="") if status is Status.ERROR else None
    return Outcome(check="logits", status=status, summary="", criteria=(replace(row, status=status),), failure=failure)


@pytest.mark.parametrize(
    ("status", "caught"),
    [(Status.FAIL, True), (Status.PASS, False), (Status.INCONCLUSIVE, False), (Status.ERROR, False)],
)
def test_only_the_named_effect_counts_and_a_crash_catches_nothing(status: Status, caught: bool) -> None:
    fault = replace(logits.FAULTS["row_zeroed"], caught_by="named")
    assert is_caught(fault, outcome(status)) is caught
    assert not is_caught(replace(fault, caught_by="another"), outcome(status))


def test_a_fault_that_bites_at_random_is_tried_until_it_is_caught_or_its_attempts_are_used_up() -> None:
    answers = iter([Status.PASS, Status.PASS, Status.FAIL])
    luck = replace(
        logits.FAULTS["row_zeroed"], caught_by="named", attempts=5, run=lambda device: outcome(next(answers))
    )
    (result,) = plant([luck], CPU)
    assert (result.verdict, result.attempts) == ("caught", 3)
    never = replace(luck, attempts=2, run=lambda device: outcome(Status.PASS))
    (result,) = plant([never], CPU)
    assert (result.verdict, result.attempts) == ("MISSED", 2)


def test_a_fault_that_cannot_be_planted_is_missed_and_not_a_crash() -> None:
    def broken(device: torch.device) -> Outcome:
        raise RuntimeError("no such hook")

    (result,) = plant([replace(logits.FAULTS["row_zeroed"], run=broken)], CPU)
    assert result.verdict == "MISSED"
    assert "no such hook" in result.reason


def test_faults_are_found_by_check_and_name_and_an_unknown_one_is_refused() -> None:
    assert {fault.check for fault in find_faults("pcie")} == {"pcie"}
    assert [fault.name for fault in find_faults(name="row_zeroed")] == ["row_zeroed"]
    with pytest.raises(ParamsError, match="none of name 'row_zerod'; known: .*row_zeroed"):
        find_faults(name="row_zerod")


def test_the_command_says_what_caught_what_and_exits_by_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faults", "pcie", "--clean", "1", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "PASS: caught 16 of 16 planted faults" in " ".join(shown.split())
    assert "0 false alarms in 1 clean runs" in " ".join(shown.split())
    assert main(["faults", "--fault", "nothing"]) == 2
    assert main(["faults", "logistics"]) == 2


def test_an_escaped_fault_or_a_false_alarm_fails_the_check_of_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    harmless = replace(ALL["row_zeroed"], run=lambda device: outcome(Status.PASS))
    monkeypatch.setattr(check, "find_faults", lambda of, name: [ALL["claims_twice"], harmless])
    found = check.check_faults(FaultsParams.create(clean_runs=0, device="cpu"))
    assert found.status is Status.FAIL
    assert found.criterion("claims_twice").status is Status.PASS
    assert found.criterion("row_zeroed").status is Status.FAIL
    assert "escaped: row_zeroed" in found.summary
    monkeypatch.setitem(matrix.CLEAN, "pcie", lambda device: outcome(Status.INCONCLUSIVE))
    monkeypatch.setattr(check, "find_faults", lambda of, name: [ALL["claims_twice"]])
    found = check.check_faults(FaultsParams.create(clean_runs=2, device="cpu"))
    assert found.criterion("pcie_false_alarms").observed == 2
    assert found.status is Status.FAIL


@pytest.mark.gpu
@pytest.mark.parametrize("fault", ALL.values(), ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught_on_a_gpu(fault: Fault) -> None:
    (result,) = plant([fault], torch.device("cuda", 0))
    print(f"\n{result.verdict} {fault.name}: {result.reason} {result.alarms} {result.seconds:.1f} s")
    assert result.verdict == "caught"
