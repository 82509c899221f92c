"""An honest trace that is altered after the fact gets the verdict of a broken ruler, never that of its system."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from djinn_checks.checks.pcie.check import check_pcie
from djinn_checks.errors import ParamsError
from djinn_checks.instruments.counters import WRAP, Integers, build_series
from djinn_checks.instruments.traces import load_trace, save_trace
from djinn_checks.outcome import Outcome, Status
from djinn_checks.params import PcieParams

TRACES = Path(__file__).parents[2] / "data" / "traces"
TRUTH: dict[str, Any] = json.loads((TRACES / "truth.json").read_text())
CLAIMS = {"rx_above_threshold", "rx_of_ceiling", "claimed_vs_counted"}
Alter = Callable[[Integers, Integers], tuple[Integers, Integers]]


def replay(folder: Path, alter: Alter | None = None, **truth: Any) -> Outcome:
    """Judge the ring's trace with its counters altered, as wrapping sums, and its truth changed."""
    for name in ("copy_h2d.csv.gz", "ring.csv.gz"):
        shutil.copy(TRACES / name, folder)
    ring = load_trace(TRACES / "ring.csv.gz")
    if alter is not None:
        rx, tx = alter(ring.rx_bytes + int(ring.raw.rx[0]), ring.tx_bytes + int(ring.raw.tx[0]))
        times = ring.raw.before_s, ring.raw.after_s
        save_trace(build_series(*times, rx % WRAP, tx % WRAP, source="altered"), folder / "ring.csv.gz")
    (folder / "truth.json").write_text(json.dumps(TRUTH | {"ring": TRUTH["ring"] | truth}))
    return check_pcie(PcieParams.create(device="cpu", trace=str(folder / "ring.csv.gz")))


def assert_ruler(outcome: Outcome, row: str, said: str) -> None:
    assert outcome.status is Status.INCONCLUSIVE
    assert outcome.criterion(row).status is Status.INCONCLUSIVE
    assert outcome.criterion(row).required
    assert said in outcome.criterion(row).reason
    for claim in CLAIMS:
        assert outcome.criterion(claim).status is Status.INCONCLUSIVE
        assert row in outcome.criterion(claim).reason


def test_the_same_trace_unaltered_passes(tmp_path: Path) -> None:
    outcome = replay(tmp_path, lambda rx, tx: (rx, tx))
    assert outcome.status is Status.PASS
    assert outcome.criterion("counted_is_possible").observed == pytest.approx(0.99, abs=0.01)


def test_twice_the_ceiling_is_a_broken_ruler(tmp_path: Path) -> None:
    outcome = replay(tmp_path, lambda rx, tx: (2 * rx, tx), h2d_bytes=2 * TRUTH["ring"]["h2d_bytes"])
    assert_ruler(outcome, "counted_is_possible", "RX counted")


@pytest.mark.parametrize("which", ["rx", "tx"])
def test_a_counter_that_is_set_back_in_the_middle_is_a_broken_ruler(tmp_path: Path, which: str) -> None:
    def set_back(sums: Integers) -> Integers:
        at = int(np.flatnonzero(sums % WRAP < WRAP // 4)[1000])
        back: Integers = sums.copy()
        back[at:] -= sums[at]
        return back

    outcome = replay(tmp_path, lambda rx, tx: (set_back(rx), tx) if which == "rx" else (rx, set_back(tx)))
    assert_ruler(outcome, "counted_is_possible", f"{which.upper()} counted")


@pytest.mark.parametrize("which", ["rx", "tx"])
def test_a_counter_that_is_dead_while_the_other_lives_is_a_broken_ruler(tmp_path: Path, which: str) -> None:
    outcome = replay(tmp_path, lambda rx, tx: (0 * rx, tx) if which == "rx" else (rx, 0 * tx))
    assert_ruler(outcome, "counters_alive", f"{which.upper()} stood still for 10 s")


def test_a_counter_that_dies_half_way_is_a_broken_ruler(tmp_path: Path) -> None:
    outcome = replay(tmp_path, lambda rx, tx: (np.minimum(rx, rx[len(rx) // 2]), tx))
    assert_ruler(outcome, "counters_alive", "RX does not count")


START, END = TRUTH["ring"]["t_start_s"], TRUTH["ring"]["t_end_s"]


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        ({"t_start_s": END, "t_end_s": START}, "t_end_s: expected a time after t_start_s"),
        ({"t_end_s": START}, "t_end_s: expected a time after t_start_s"),
        ({"t_end_s": float("nan")}, "t_end_s: expected a finite number, got nan"),
        ({"t_end_s": float("inf")}, "t_end_s: expected a finite number, got inf"),
        ({"h2d_bytes": -1}, "h2d_bytes: expected greater than or equal to 0, got -1"),
        ({"encodes": "no"}, "encodes: expected a valid boolean, got 'no'"),
        ({"passes": 0}, "passes: expected greater than or equal to 1, got 0"),
        ({"passes": 43.9}, "passes: expected a valid integer, got a number with a fractional part"),
        ({"budget_bytes": 5}, "budget_bytes: needs weight_bytes beside it"),
        ({"weight_bytes": 10, "budget_bytes": 11}, "budget_bytes: expected at most weight_bytes, 10, got 11"),
        ({"weight_bytes": 10, "least_bytes": -3.0}, "least_bytes: expected greater than 0, got -3.0"),
        ({"h2d_bytes": float("inf")}, "needs t_start_s, t_end_s and h2d_bytes"),
        ({"h2d_bytes": float("nan")}, "needs t_start_s, t_end_s and h2d_bytes"),
    ],
)
def test_a_truth_that_cannot_be_is_refused(tmp_path: Path, truth: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError, match=f"trace: .*{said}"):
        replay(tmp_path, **truth)


@pytest.mark.parametrize(
    "known",
    [
        {"t_end_s": TRUTH["copy_h2d"]["t_start_s"]},
        {"t_start_s": float("nan")},
        {"h2d_bytes": 0},
        {"h2d_bytes": 2 * TRUTH["copy_h2d"]["h2d_bytes"]},
        {"t_end_s": (TRUTH["copy_h2d"]["t_start_s"] + TRUTH["copy_h2d"]["t_end_s"]) / 2},
    ],
)
def test_a_known_copy_that_cannot_be_is_refused(tmp_path: Path, known: dict[str, Any]) -> None:
    for name in ("copy_h2d.csv.gz", "ring.csv.gz"):
        shutil.copy(TRACES / name, tmp_path)
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH | {"copy_h2d": TRUTH["copy_h2d"] | known}))
    with pytest.raises(ParamsError, match=r"trace: .*expected .* got .*; [cg]"):
        check_pcie(PcieParams.create(device="cpu", trace=str(tmp_path / "ring.csv.gz")))


@pytest.mark.parametrize("value", [str(2**32), str(2**63), str(2**64 - 1), "-1"])
def test_a_trace_of_a_wider_counter_is_refused(tmp_path: Path, value: str) -> None:
    for name in ("copy_h2d.csv.gz", "truth.json"):
        shutil.copy(TRACES / name, tmp_path)
    lines = gzip.decompress((TRACES / "ring.csv.gz").read_bytes()).decode().splitlines()
    lines[7] = ",".join([*lines[7].split(",")[:3], value, "5"])
    (tmp_path / "ring.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(ParamsError, match=r"ring\.csv\.gz.*expected .*32.bit.*modulo 2\^32"):
        check_pcie(PcieParams.create(device="cpu", trace=str(tmp_path / "ring.csv.gz")))
