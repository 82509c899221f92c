"""The PCIe check end to end on a CPU: the host-memory link, and recorded traces in place of a run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from djinn_checks.checks import run as checks_run
from djinn_checks.checks.conclude import conclude
from djinn_checks.checks.pcie import one_gpu
from djinn_checks.checks.pcie.anatomy import ANATOMY
from djinn_checks.checks.pcie.check import check_pcie
from djinn_checks.errors import ParamsError
from djinn_checks.faults.pcie.traffic import make_evidence
from djinn_checks.instruments.traces import save_trace
from djinn_checks.outcome import Outcome, Status
from djinn_checks.params import PcieParams
from tests.fakes import Crashes, KeepsNoCount, LiesAboutBytes, ResidentFake, StreamingFake, TinyModel

TRACES = Path(__file__).parents[2] / "data" / "traces"
# Two slots of a block (24,832 bytes each) and embedding, head and norm: what StreamingFake holds.
SLOTS_AND_REST = 2 * 37_120 + 2 * 97 * 32 * 4 + 32 * 4


@pytest.fixture
def _tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_gpu, "open_model", lambda spec, *, dtype, device, seed: TinyModel(dtype, seed))
    monkeypatch.setattr(checks_run, "read_environment", lambda device, system="": {"device": str(device)})


def run(system: Any = None, **changed: Any) -> Outcome:
    values = {"device": "cpu", "dtype": "float32", "duration_s": 1.0, "sweep": False, "budget_gb": SLOTS_AND_REST / 1e9}
    return check_pcie(PcieParams.create(**(values | changed)), system_factory=system)


def replay(name: str, **changed: Any) -> Outcome:
    return check_pcie(PcieParams.create(device="cpu", trace=str(TRACES / f"{name}.csv.gz"), **changed))


@pytest.mark.usefixtures("_tiny_model")
class TestHostLink:
    def test_it_is_inconclusive_about_pcie_and_says_so_everywhere(self) -> None:
        outcome = run(StreamingFake)
        assert outcome.failure is None, outcome.failure
        assert outcome.status is Status.INCONCLUSIVE
        assert "host-memory link" in outcome.summary
        assert outcome.measurements["link"]["label"].startswith("host-memory link")
        assert outcome.criterion("rx_above_threshold").status is Status.INCONCLUSIVE
        assert "no PCIe GPU" in outcome.criterion("rx_above_threshold").reason
        assert outcome.criterion("streams_the_model").status is Status.PASS
        assert outcome.measurements["passes"]["count"] > 5
        json.dumps(outcome.to_dict(), allow_nan=False)

    def test_a_system_that_streams_nothing_fails_though_nothing_counts_its_link(self) -> None:
        outcome = run(ResidentFake)
        assert outcome.status is Status.FAIL
        assert {row.name for row in outcome.criteria if row.status is Status.FAIL and row.required} == {
            "streams_the_model"
        }

    def test_a_claim_below_what_was_certainly_written_fails(self) -> None:
        class Modest(StreamingFake):
            def claimed_bytes(self) -> int:
                return 17

        assert run(Modest).criterion("claimed_vs_counted").status is Status.FAIL

    def test_a_claim_that_nothing_can_refute_is_open_and_not_a_pass(self) -> None:
        assert run(LiesAboutBytes).criterion("claimed_vs_counted").status is not Status.PASS

    def test_a_system_without_a_count_is_not_asked_for_it(self) -> None:
        assert run(KeepsNoCount).criterion("claimed_vs_counted").status is Status.SKIP

    def test_a_crash_is_an_error_and_never_less(self) -> None:
        outcome = run(Crashes)
        assert outcome.status is Status.ERROR
        assert outcome.failure is not None

    def test_a_limit_of_device_memory_that_cannot_be_enforced_is_open(self) -> None:
        assert run(StreamingFake, vram_limit_gb=1.0).criterion("vram_limit").status is Status.INCONCLUSIVE

    def test_a_budget_for_the_whole_model_is_refused(self) -> None:
        with pytest.raises(ParamsError, match="nothing has to be streamed"):
            run(StreamingFake, budget_gb=1.0)

    def test_resident_layers_are_refused_for_a_system_that_does_not_take_them(self) -> None:
        with pytest.raises(ParamsError, match="resident_layers: system 'ring' does not take"):
            run(StreamingFake, resident_layers=2)


def test_the_reference_engine_streams_as_planned_over_the_host_link() -> None:
    outcome = run(None, model="random:tiny", budget_gb=None, budget_fraction=0.5)
    assert outcome.failure is None, outcome.failure
    assert outcome.criterion("streams_the_model").status is Status.PASS
    moved = outcome.measurements["bytes"]
    assert moved["claimed"] == moved["predicted"] > 0
    assert outcome.measurements["limit"]["ratio"] > 0
    rows = outcome.measurements["zoom"]["timeline"]
    assert rows
    assert all(row["copy_start_s"] <= row["copy_end_s"] <= row["compute_end_s"] for row in rows)


@pytest.mark.parametrize(
    ("name", "status", "criterion"),
    [
        ("ring", Status.PASS, None),
        ("ring_fast_sampling", Status.INCONCLUSIVE, "rx_above_threshold"),
        ("bursty", Status.FAIL, "rx_of_ceiling"),
        ("pageable", Status.FAIL, "rx_above_threshold"),
        ("resident", Status.FAIL, "rx_above_threshold"),
    ],
)
def test_recorded_traces_get_the_verdict_of_what_ran(name: str, status: Status, criterion: str | None) -> None:
    outcome = replay(name)
    assert outcome.status is status
    assert outcome.summary.startswith(f"replay of {name}.csv.gz")
    assert outcome.measurements["link"]["subject"] == "replay"
    decisive = [row.name for row in outcome.criteria if row.required and row.status is status]
    assert criterion is None or decisive[0] == criterion
    assert outcome.criterion("claimed_vs_counted").status is Status.PASS


def test_a_truth_that_is_not_what_was_counted_fails_by_that_name(tmp_path: Path) -> None:
    shutil.copytree(TRACES, tmp_path, dirs_exist_ok=True)
    truth = json.loads((TRACES / "truth.json").read_text())
    truth["ring"]["h2d_bytes"] = int(truth["ring"]["h2d_bytes"] * 1.02)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    params = PcieParams.create(device="cpu", trace=str(tmp_path / "ring.csv.gz"), system="whoever-recorded-it")
    outcome = check_pcie(params)
    assert [row.name for row in outcome.criteria if row.status is Status.FAIL] == ["claimed_vs_counted"]


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        ("nowhere/ring.csv.gz", "there is no file 'nowhere/ring.csv.gz'"),
        (str(TRACES / "truth.json"), "says nothing of 'truth.json'; it has 'copy_h2d'"),
    ],
)
def test_a_trace_that_is_not_there_or_is_none_is_refused_by_name(trace: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        check_pcie(PcieParams.create(device="cpu", trace=trace))


def test_a_trace_without_its_truth_is_refused_by_name(tmp_path: Path) -> None:
    shutil.copy(TRACES / "ring.csv.gz", tmp_path)
    with pytest.raises(ParamsError, match=r"truth\.json must lie beside the trace"):
        check_pcie(PcieParams.create(device="cpu", trace=str(tmp_path / "ring.csv.gz")))


def test_the_samples_of_a_run_are_replayed_with_the_outcome_beside_them(tmp_path: Path) -> None:
    made = make_evidence()
    assert made.series is not None
    first = conclude(ANATOMY, made, {})
    first.save(tmp_path / "pcie.outcome.json")
    save_trace(made.series, tmp_path / "pcie.samples.csv.gz")
    params = PcieParams.create(device="cpu", trace=str(tmp_path / "pcie.samples.csv.gz"), window_ms=50.0)
    again = check_pcie(params)
    assert again.status is Status.PASS
    assert again.measurements["link"]["subject"] == "replay"
    assert len(again.measurements["windows"]["rx_mb_per_s"]) == 240
    assert again.measurements["bytes"]["counted"] == pytest.approx(first.measurements["bytes"]["counted"], rel=1e-4)
    (tmp_path / "pcie.outcome.json").write_text("{}")
    with pytest.raises(ParamsError, match="expected schema"):
        check_pcie(params)
    replace(first, measurements={}).save(tmp_path / "pcie.outcome.json")
    with pytest.raises(ParamsError, match="says nothing about when"):
        check_pcie(params)
    (tmp_path / "pcie.outcome.json").unlink()
    with pytest.raises(ParamsError, match=r"needs its outcome beside it, pcie\.outcome\.json or pcie\.json"):
        check_pcie(params)
