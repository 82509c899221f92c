"""Every planted fault is caught by the criterion that was named beforehand, and clean systems are let be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from djinn_checks.checks.pcie.evidence import PcieEvidence
from djinn_checks.cli import main
from djinn_checks.commands.faults import _caught_table
from djinn_checks.errors import ParamsError
from djinn_checks.faults import check, names, tasks
from djinn_checks.faults.agents import catalog as agents
from djinn_checks.faults.base import Fault, find_faults, is_caught
from djinn_checks.faults.catalogs import load_names
from djinn_checks.faults.clean import CLEAN, CleanRun
from djinn_checks.faults.logits import catalog as logits
from djinn_checks.faults.logits.catalog import run_logits
from djinn_checks.faults.matrix import fill_matrix, plant
from djinn_checks.faults.names import find_names
from djinn_checks.faults.pcie import catalog as pcie
from djinn_checks.faults.pcie.made import judge_evidence
from djinn_checks.faults.pcie.streams import make_encoding, make_in_place
from djinn_checks.faults.pcie.traffic import make_noisy_evidence
from djinn_checks.faults.streaming import open_slow_link, stream_over
from djinn_checks.faults.tasks import Task, run_task, turns_until_wrong
from djinn_checks.outcome import Failure, Outcome, Status, judge
from djinn_checks.params import FaultsParams
from djinn_checks.report.faults.tables import list_faults, tabulate_faults
from tests.checks.agents.busy import is_left_open_by_a_busy_machine
from tests.faults.rounding import rounding_tells_a_kept_cache

CPU = torch.device("cpu")
ALL = {**logits.FAULTS, **pcie.FAULTS, **agents.FAULTS}
HERE = [fault for fault in ALL.values() if fault.applies(CPU)]
MADE = [fault for fault in pcie.FAULTS.values() if not fault.name.startswith(("gpu_", "host_"))]
SOME = [
    ALL[name]
    for name in (
        "hooks_do_nothing", "copy_not_awaited", "bit_flipped_low", "half_weights_rounded", "rotary_recomputed",
        "cache_off_by_one", "host_streams_nothing",
    )
]  # fmt: skip
SERVERS = [
    ALL[name]
    for name in (
        "counts_without_doing", "kept_behind_other_memory", "recomputed_in_secret", "bit_flipped_unverified",
        "memory_freed_late", "dies_asleep", "sessions_crossed",
    )
]  # fmt: skip
"""All of them are planted by `params/faults`; here those that no other one stands for."""


@pytest.mark.parametrize("fault", [*MADE, *SOME], ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught_by_the_criterion_that_was_named(fault: Fault) -> None:
    (result,) = plant([fault], CPU)
    assert result.verdict == "caught", f"{result.reason} (alarms: {result.alarms})"
    assert result.status is fault.effect


@pytest.mark.parametrize("name", [name for name in CLEAN if name != "agents"])
def test_a_clean_system_gives_no_alarm(name: str) -> None:
    ran = run_task(Task(kind="clean", name=name, size=1), None, CPU)
    assert ran.reason == ""


@pytest.mark.parametrize(("make", "runs"), [(make_noisy_evidence, 30), (make_in_place, 8), (make_encoding, 8)])
def test_a_full_link_is_passed_whatever_its_noise(make: Callable[[int], PcieEvidence], runs: int) -> None:
    outcomes = [judge_evidence(lambda: make(seed))(CPU) for seed in range(runs)]  # noqa: B023
    assert {found.status for found in outcomes} == {Status.PASS}


@pytest.mark.parametrize(
    ("counters", "streams", "alarms", "doubts"),
    [
        (Status.INCONCLUSIVE, Status.PASS, (), ()),
        (Status.PASS, Status.PASS, ("counters",), ()),
        (Status.INCONCLUSIVE, Status.FAIL, ("streams",), ()),
        (Status.INCONCLUSIVE, Status.INCONCLUSIVE, (), ("streams",)),
        (Status.FAIL, Status.INCONCLUSIVE, ("counters",), ("streams",)),
    ],
)
def test_a_clean_run_is_accused_or_left_undecided_or_let_be(
    counters: Status, streams: Status, alarms: tuple[str, ...], doubts: tuple[str, ...]
) -> None:
    rows = {"counters": counters, "streams": streams}
    made = [replace(judge(name, "", 1, "==", 1, unit="", evidence=""), status=status) for name, status in rows.items()]
    clean = CleanRun(check="pcie", says="", run=lambda *_: None, undecidable=lambda device: frozenset({"counters"}))  # type: ignore[arg-type,return-value]
    found = Outcome(check="pcie", status=Status.PASS, summary="", criteria=tuple(made))
    assert tuple(text.partition(":")[0] for text in clean.alarms(found, CPU)) == alarms
    assert tuple(text.partition(":")[0] for text in clean.doubts(found, CPU)) == doubts


def test_a_slow_link_that_is_waited_for_gives_no_alarm() -> None:
    assert run_logits(stream_over(open_slow_link))(CPU).status is Status.PASS


def test_a_tied_model_gives_no_alarm() -> None:
    from djinn_checks.systems.ring import RingSystem

    assert run_logits(RingSystem, tied=True)(CPU).status is Status.PASS


def test_a_slow_server_that_calls_itself_fast_is_right_in_all_else() -> None:
    """So on a GPU, where the link is counted, nothing but the row about its speed can catch it."""
    fault = ALL["gpu_slow_and_says_fast"]
    assert not fault.applies(CPU)
    found = fault.run(CPU)
    blind = set() if rounding_tells_a_kept_cache() else {"rounding_is_kept", "first_token_is_kept"}
    busy = {row.name for row in found.criteria if row.required and is_left_open_by_a_busy_machine(row.name, row.reason)}
    undecided = {row.name for row in found.criteria if row.status not in (Status.PASS, Status.SKIP)}
    assert undecided - busy <= blind  # where rounding is blind time may tell, or not
    assert found.status is (Status.INCONCLUSIVE if busy or (blind and blind <= undecided) else Status.PASS)


def test_every_fault_says_what_it_breaks_and_what_it_stands_for() -> None:
    assert len(HERE) >= 55
    for fault in ALL.values():
        assert fault.breaks.endswith(".")
        assert fault.modelled_on
        assert fault.check in ("logits", "pcie", "agents")
    assert len(ALL) == len(logits.FAULTS) + len(pcie.FAULTS) + len(agents.FAULTS)


def test_smaller_doses_show_what_each_criterion_still_sees_and_none_of_them_has_to_be_caught() -> None:
    fault = ALL["claims_two_percent_more"]
    matrix = fill_matrix([fault], CPU, clean_runs=0, doses=True, at_once=0)
    assert [(dose.task.size, dose.caught) for dose in matrix.doses[fault.name]] == [
        (0.015, True), (0.011, True), (0.009, False), (0.005, False),
    ]  # fmt: skip
    assert matrix.results[0].verdict == "caught"


def test_faulty_servers_are_caught_in_processes_of_their_own_and_a_clean_one_is_let_be() -> None:
    chosen = [*SERVERS, ALL["gpu_no_overlap"]]
    matrix = fill_matrix(chosen, CPU, clean_runs=1, doses=False, at_once=3)
    verdicts = {result.fault.name: (result.verdict, result.reason) for result in matrix.results}
    assert verdicts.pop("gpu_no_overlap")[0] == "not applicable"
    clean = [run for ran in matrix.clean.values() for run in ran]
    excused = []
    if not rounding_tells_a_kept_cache():  # then nobody is accused by it, and nobody passed
        cannot_tell = "could not be told from each other here"
        assert cannot_tell in verdicts.pop("recomputed_in_secret")[1]
        excused += [
            run.reason for run in clean if run.reason.startswith(("rounding_is_kept: ", "first_token_is_kept: "))
        ]
    assert {name: found for name, found in verdicts.items() if found[0] != "caught"} == {}
    turns = {result.fault.name: result.turns for result in matrix.results}
    assert (turns["sessions_crossed"] or 0) > 4  # each of the four has had a first turn, and nobody was restored before
    assert turns["dies_asleep"] is None
    assert len(clean) >= 3
    open_still = [run.reason for run in clean if run.undecided and run.reason not in excused]
    by_machine = [why for why in open_still if is_left_open_by_a_busy_machine(*why.split(": ", 1))]
    wrong = [run.reason for run in clean if run.caught] + [why for why in open_still if why not in by_machine]
    assert not wrong


def test_doses_keep_their_order_whichever_ends_first() -> None:
    fault = ALL["sampler_dies"]
    matrix = fill_matrix([fault], CPU, clean_runs=0, doses=True, at_once=2)
    assert [dose.task.size for dose in matrix.doses[fault.name]] == [0.1, 0.02, 0.005]


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
    assert not is_caught(replace(fault, says="for another reason"), outcome(status))


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


def test_the_turns_that_a_fault_of_agents_took_are_counted_with_those_of_earlier_attempts() -> None:
    def after(crowd: int | None, status: Status) -> Outcome:
        told = {"first_wrong": {"sleeper": 2, "crowd": crowd, "crowd_turns": 8}}
        return replace(outcome(status), timings=told)

    answers = iter([after(None, Status.PASS), after(None, Status.PASS), after(6, Status.FAIL)])
    named = "crowd_logprobs_equal_twins"
    seldom = replace(
        ALL["restored_under_wrong_id"], caught_by=named, attempts=3,
        run=lambda device: replace(found := next(answers), criteria=(replace(found.criteria[0], name=named),)),
    )  # fmt: skip
    (result,) = plant([seldom], CPU)
    assert (result.verdict, result.attempts, result.turns) == ("caught", 3, 8 + 8 + 6)
    assert turns_until_wrong(after(None, Status.FAIL), "logprobs_equal_twin") == 2
    assert turns_until_wrong(outcome(Status.FAIL), "logprobs_equal_twin") is None


def test_the_turns_are_a_column_if_agents_said_anything_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"first_wrong": {"sleeper": None, "crowd": 5, "crowd_turns": 8}}
    made = outcome(Status.FAIL)
    made = replace(made, timings=told, criteria=(replace(made.criteria[0], name="crowd_named"),))
    crossed = replace(ALL["sessions_crossed"], caught_by="crowd_named", run=lambda device: made)
    monkeypatch.setattr(check, "find_faults", lambda of, name: [crossed, ALL["claims_twice"]])
    found = check.check_faults(FaultsParams.create(clean_runs=0, doses=False, device="cpu"), at_once=0)
    assert "after 5 turns of agents" in found.criterion("sessions_crossed").evidence
    assert "turns" not in found.criterion("claims_twice").evidence
    rows = list_faults(found)
    assert [row.get("turns") for row in rows] == [5, None]
    assert [column.header for column in _caught_table(rows).columns].count("turns") == 1
    assert "turns" not in [column.header for column in _caught_table(rows[1:]).columns]
    assert '<td data-label="Turns"><div>5</div></td>' in tabulate_faults(found)
    older = replace(found, measurements={"faults": [row for row in rows if row.get("turns") is None]})
    assert "Turns" not in tabulate_faults(older)


def test_a_fault_that_cannot_be_planted_is_missed_and_not_a_crash() -> None:
    def broken(device: torch.device) -> Outcome:
        raise RuntimeError("no such hook")

    (result,) = plant([replace(logits.FAULTS["row_zeroed"], run=broken)], CPU)
    assert result.verdict == "MISSED"
    assert "no such hook" in result.reason


def test_faults_are_found_by_check_and_name_and_an_unknown_one_is_refused() -> None:
    assert {fault.check for fault in find_faults(["pcie"])} == {"pcie"}
    assert [fault.name for fault in find_faults(name="row_zeroed")] == ["row_zeroed"]
    with pytest.raises(ParamsError, match="none of name 'row_zerod'; did you mean 'row_zeroed'"):
        find_faults(name="row_zerod")
    with pytest.raises(ParamsError, match="none of check 'logits' and name 'zzz'; known: .*row_zeroed") as caught:
        find_faults(["logits"], name="zzz")
    assert "never_swaps" not in str(caught.value), "another check's faults are no answer"


def test_the_list_of_names_is_what_the_catalogs_have() -> None:
    assert find_names((), None, list) == load_names(), "write it anew: python -m djinn_checks.faults.catalogs"
    with pytest.raises(ParamsError, match="none of check 'logit'; known: all_links_slow"):
        find_names(["logit"], None, list)


def test_a_catalog_of_another_package_is_read_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_has_others", lambda: True)
    theirs = names.FaultName(name="theirs", check="logits", breaks="x", devices=("cpu",))
    assert find_names(["logits"], None, lambda: [theirs]) == [theirs]


def test_names_are_listed_and_a_wrong_one_refused_without_torch() -> None:
    program = (
        "import sys; from djinn_checks.cli import main\n"
        "assert main(['faults', 'logits', '--list']) == 0\n"
        "assert main(['faults', 'logits', '--fault', 'row_zerod']) == 2\n"
        "assert 'torch' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "streams_while_watched" in ran.stdout
    assert "[without a GPU only]" in ran.stdout
    assert "did you mean 'row_zeroed'?" in ran.stderr


def test_the_command_says_what_caught_what_and_exits_by_it(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["faults", "pcie", "--fault", "claims_two_percent_more", "--doses", "--clean", "1", "--device", "cpu"]
    assert main(chosen) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "PASS: caught 1 of 1 in made-up evidence" in shown
    assert "0.011" in shown
    assert "0 false alarms in 1 clean runs and in 3 pieces of made-up evidence" in shown
    assert main(["faults", "--fault", "nothing"]) == 2
    assert main(["faults", "logistics"]) == 2
    assert main(["faults", "--fault", "row_zeroed", "--fault", "claims_twice"]) == 2
    assert "expected one name, got row_zeroed, claims_twice" in capsys.readouterr().err


def test_an_escaped_fault_or_a_false_alarm_fails_the_check_of_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    harmless = replace(ALL["row_zeroed"], run=lambda device: outcome(Status.PASS))
    monkeypatch.setattr(check, "find_faults", lambda of, name: [ALL["claims_twice"], harmless])
    found = check.check_faults(FaultsParams.create(clean_runs=0, doses=False, device="cpu"), at_once=0)
    assert found.status is Status.FAIL
    assert found.criterion("claims_twice").status is Status.PASS
    assert found.criterion("row_zeroed").status is Status.FAIL
    assert "escaped: row_zeroed" in found.summary
    found = check_with_clean_runs(monkeypatch, Status.FAIL)
    assert found.criterion("pcie_false_alarms").observed == 2
    assert found.status is Status.FAIL


def test_clean_runs_without_a_verdict_are_no_alarm_and_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    found = check_with_clean_runs(monkeypatch, Status.INCONCLUSIVE)
    row = found.criterion("pcie_false_alarms")
    assert row.status is found.status is Status.INCONCLUSIVE
    assert row.reason.startswith("2 of 2 runs have no verdict: ")
    assert (
        "0 false alarms in 2 clean runs and in 6 pieces of made-up evidence, 2 of them without a verdict"
        in found.summary
    )
    assert found.measurements["clean"]["pcie"]["undecided"] == 2


def check_with_clean_runs(monkeypatch: pytest.MonkeyPatch, status: Status) -> Outcome:
    """Return the verdict if both runs of the pcie check over this machine's link come out like this."""
    made = replace(CLEAN["pcie"], run=lambda number, device: outcome(status))
    monkeypatch.setattr(tasks, "CLEAN", {**CLEAN, "pcie": made})
    monkeypatch.setattr(check, "find_faults", lambda of, name: [ALL["claims_twice"]])
    return check.check_faults(FaultsParams.create(clean_runs=2, doses=False, device="cpu"), at_once=0)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "fault", [fault for fault in ALL.values() if fault.applies(torch.device("cuda"))], ids=lambda fault: fault.name
)
def test_a_planted_fault_is_caught_on_a_gpu(fault: Fault) -> None:
    (result,) = plant([fault], torch.device("cuda", 0))
    print(f"\n{result.verdict} {fault.name}: {result.reason} {result.alarms} {result.seconds:.1f} s")
    assert result.verdict == "caught"
