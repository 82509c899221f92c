"""Several GPUs at once: each is judged by itself, all by the worst, and one that is lost or slow is named."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from djinn_checks.checks.pcie import together
from djinn_checks.checks.pcie.check import check_pcie
from djinn_checks.checks.pcie.evidence import PCIE
from djinn_checks.checks.pcie.stream_worker import open_link
from djinn_checks.checks.pcie.together import GpuStream, Streams, TogetherEvidence, find_streams
from djinn_checks.checks.pcie.together_check import conclude_all
from djinn_checks.errors import OutcomeError, ParamsError
from djinn_checks.faults.pcie.defects import slower
from djinn_checks.faults.pcie.traffic import START_S, make_ceiling, make_evidence
from djinn_checks.instruments.gpus import HostGpus
from djinn_checks.outcome import Outcome, Status
from djinn_checks.params import PcieParams
from djinn_checks.report.pcie.gpu_table import tabulate_gpus
from djinn_checks.report.pcie.plots import plot_flatline
from djinn_checks.report.pcie.stream_tables import tabulate_health, tabulate_stream
from djinn_checks.report.pcie.tables import tabulate_ceilings, tabulate_limit, tabulate_preflight, tabulate_traffic
from djinn_checks.report.pcie.together import plot_flatlines

UUIDS = ("GPU-one", "GPU-two")


def make_streams(*slow: str, **changed: Any) -> TogetherEvidence:
    gpus = []
    for uuid in UUIDS:
        made = slower(0.5) if uuid in slow else make_evidence()
        ceiling = replace(made.link.ceilings[0], bytes_per_s=1.1 * made.link.ceiling_bytes_per_s)
        gpus.append(GpuStream(uuid=uuid, evidence=made, alone_ceiling=ceiling, alone_s=(START_S - 1.8, START_S - 1.2)))
    values: dict[str, Any] = {
        "params": PcieParams.create(gpus="all"),
        "streams": Streams(names=UUIDS, subject=PCIE, left_out={}, in_use={}),
        "gpus": tuple(gpus),
        "lost": {},
        "alone_passes": dict.fromkeys(UUIDS, 3),
    }
    return TogetherEvidence(**(values | changed))


def conclude(evidence: TogetherEvidence) -> Outcome:
    outcome = conclude_all(evidence, {"params": evidence.params.model_dump()})
    assert Outcome.from_dict(outcome.to_dict()) == outcome
    return outcome


def test_two_full_links_are_passed_each_with_a_verdict_of_its_own() -> None:
    outcome = conclude(make_streams())
    assert outcome.status is Status.PASS
    assert "49.8, 49.8 GB/s received, 99.5 in all; 99.5% of alone" in outcome.summary
    assert [gpu["status"] for gpu in outcome.measurements["gpus"]] == ["PASS", "PASS"]
    assert outcome.measurements["together"]["sum_bytes_per_s"] == pytest.approx(2 * 49.75e9, rel=0.001)
    assert outcome.criterion("share_of_alone").status is Status.SKIP
    drawn = plot_flatlines(outcome)
    assert drawn.figure is not None
    assert len(drawn.figure.axes) == 3
    assert "two received 49.75 GB/s, 99.5% of alone" in drawn.alt
    (legend,) = drawn.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ceiling while all copy", "ceiling alone", "threshold"]
    assert "99.50 in all" in tabulate_gpus(outcome)
    assert plot_flatline(outcome).figure is None


def test_each_of_two_has_its_own_tables_and_nothing_is_called_a_replay() -> None:
    outcome = conclude(make_streams())
    for tabulate in (tabulate_traffic, tabulate_limit, tabulate_ceilings, tabulate_stream):
        made = tabulate(outcome)
        assert [f"<summary>{uuid}</summary>" in made for uuid in UUIDS] == [True, True], tabulate.__name__
    told = tabulate_health(outcome) + tabulate_preflight(outcome) + tabulate_traffic(outcome)
    assert "replay needs" not in told
    assert "Nothing was run" not in told
    silent = replace(outcome, measurements={**outcome.measurements, "gpus": [
        {**gpu, "measurements": {**gpu["measurements"], "health": None}} for gpu in outcome.measurements["gpus"]
    ]})  # fmt: skip
    assert tabulate_health(silent).count("Nothing told the health") == 1


def test_of_two_the_slow_one_decides_and_is_named() -> None:
    outcome = conclude(make_streams("GPU-two"))
    assert outcome.status is Status.FAIL
    row = outcome.criterion("rx_of_ceiling")
    assert row.status is Status.FAIL
    assert row.reason.startswith("GPU-two: ")
    assert [gpu["status"] for gpu in outcome.measurements["gpus"]] == ["PASS", "FAIL"]


def test_a_gpu_whose_process_is_lost_leaves_all_undecided() -> None:
    whole = make_streams()
    outcome = conclude(replace(whole, gpus=whole.gpus[:1], lost={"GPU-two": "decoding: it ended with code 9"}))
    assert outcome.status is Status.INCONCLUSIVE
    assert "GPU-two decoding: it ended with code 9" in outcome.criterion("workers_finished").reason


def test_gpus_that_are_hidden_leave_all_undecided() -> None:
    hidden = Streams(names=UUIDS, subject=PCIE, left_out={"GPU-three": "it is partitioned (MIG)"}, in_use={})
    outcome = conclude(make_streams(streams=hidden))
    assert outcome.status is Status.INCONCLUSIVE
    assert "GPU-three: it is partitioned" in outcome.criterion("whole_host").reason


def test_a_row_that_says_otherwise_than_its_gpus_is_refused() -> None:
    plain = conclude(make_streams()).to_dict()
    (row,) = [row for row in plain["criteria"] if row["name"] == "claimed_vs_counted"]
    row["observed"] = 0.00001
    with pytest.raises(OutcomeError, match="row claimed_vs_counted says"):
        Outcome.from_dict(plain)
    plain = conclude(make_streams("GPU-two")).to_dict()
    (row,) = [row for row in plain["criteria"] if row["name"] == "rx_of_ceiling"]
    row |= {"observed": 1.0, "status": "PASS", "reason": ""}
    with pytest.raises(OutcomeError, match="rx_of_ceiling is PASS, and by the measurements one of its GPUs is FAIL"):
        Outcome.from_dict(plain)


def test_what_cannot_be_asked_of_several_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "find_gpus", lambda: HostGpus(gpus=(), pairs=()))
    with pytest.raises(ParamsError, match="give their UUIDs by `gpus`"):
        find_streams(PcieParams.create(gpus="all", device="cuda:0"))
    with pytest.raises(ParamsError, match="vram_limit_gb: is for one GPU"):
        PcieParams.create(gpus="all", vram_limit_gb=8.0)
    with pytest.raises(ParamsError, match="finds the system by its name"):
        check_pcie(PcieParams.create(gpus="all", device="cpu"), system_factory=lambda *_: None)  # type: ignore[arg-type]
    assert check_pcie(PcieParams.create(gpus=["GPU-none"])).status is Status.INCONCLUSIVE


class ToldFleet:
    """Processes that answer at once; what each was told is written down."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.ready: dict[str, dict[str, Any]] = {}
        self.lost: dict[str, str] = {}
        self.told: dict[str, list[str]] = {}

    def add(self, name: str, opener: str, options: dict[str, Any], variables: dict[str, str]) -> None:
        assert (options["device"], options["params"]["gpus"], variables) == ("cpu", "", {})
        self.names.append(name)
        self.told[name] = []

    def gather(self, limit_s: float) -> None:
        plain = {"weight_bytes": 1000, "unrouted_bytes": 0, "budget_bytes": 400, "encodes": False, "floor": None}
        self.ready = dict.fromkeys(self.names, plain)

    def run(self, commands: dict[str, dict[str, Any]], limit_s: float, stage: str) -> dict[str, dict[str, Any]]:
        return {name: {"found": self._answer(name, command)} for name, command in commands.items()}

    def _answer(self, name: str, command: dict[str, Any]) -> Any:
        words = [command.get("do", ""), "alone" if "alone_for_s" in command else "", "at" if "at_s" in command else ""]
        self.told[name].append(" ".join(filter(None, words)))
        if command.get("do") == "measure_ceiling":
            return asdict(make_ceiling((1.0, 2.0), kind="host memory"))
        if "alone_for_s" in command:
            return {"start_s": 1.0, "end_s": 2.0, "passes": 5}
        run = make_evidence().run
        assert run is not None
        return asdict(replace(run, witnessed_bytes=run.predicted_bytes)) if command.get("do") == "release" else "warm"


def test_all_are_told_the_same_in_the_same_order() -> None:
    params = PcieParams.create(device="cpu", gpus="all", stand_ins=3, duration_s=1.0)
    fleet: Any = ToldFleet()
    evidence = together._Run(params, find_streams(params), fleet, None, lambda *_: None).run()
    assert list(fleet.told) == ["stand-in-0", "stand-in-1", "stand-in-2"]
    in_order = ["measure_ceiling", "measure_ceiling at", "decode", "alone", "at", "release", "measure_ceiling at"]
    assert all(told == in_order for told in fleet.told.values())
    assert evidence.overlap == 1.0
    assert [gpu.rate for gpu in evidence.gpus] == [pytest.approx(49.75e9)] * 3
    outcome = conclude(evidence)
    assert outcome.criterion("whole_host").status is Status.INCONCLUSIVE
    assert [gpu["uuid"] for gpu in outcome.measurements["gpus"]] == list(fleet.told)


def test_a_process_measures_opens_and_decodes_when_it_is_told() -> None:
    params = PcieParams.create(device="cpu", model="random:tiny", dtype="float32", budget_fraction=0.5, duration_s=1.0,
                               warmup_passes=1)  # fmt: skip
    worker = open_link(params.model_dump(), "cpu")
    said = []
    told = iter([{"alone_for_s": 0.05}, {"at_s": 0.0}, {"do": "release"}])

    def meet(found: Any) -> dict[str, Any]:
        said.append(found)
        if found == "decoded":
            assert worker._system.claimed_bytes() is not None  # it still holds its ring
        return next(told)

    worker.meet = meet
    run = worker.decode()
    assert said[0] == "warm"
    assert said[2] == "decoded"
    assert said[1]["passes"] >= 1
    assert said[1]["end_s"] <= run["start_s"]
    assert run["claimed_bytes"] == run["predicted_bytes"] * len(run["pass_ends_s"])
    assert worker.describe()["encodes"] is False
    assert worker.measure_ceiling("h2d", at_s=0.0)["verified"]
