"""A change beyond the noise of a series is marked, noise is not, and a status that flips without one is named."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from djinn_checks.cli import main
from djinn_checks.outcome import Outcome
from djinn_checks.report.suite.changes import find_shifts, tail_of_t
from djinn_checks.report.suite.history import History, Visit, trace_history
from djinn_checks.report.suite.history_page import render_history, tell_mixed
from tests.report.suite.many_runs import RATIO, make_runs, set_ratio, write_runs


def trace(found: list[dict[str, Outcome]]) -> History:
    return trace_history([Visit(label=f"night-{place}", outcomes=outcomes) for place, outcomes in enumerate(found)])


@pytest.mark.parametrize(("t", "freedom", "p"), [
    (12.7062, 1, 0.05), (4.30265, 2, 0.05), (3.18245, 3, 0.05), (2.77645, 4, 0.05), (8.61030, 4, 0.001),
    (2.22814, 10, 0.05), (4.43698, 11, 0.001), (0.0, 5, 1.0),
])  # fmt: skip
def test_the_tail_of_student_is_that_of_the_tables(t: float, freedom: int, p: float) -> None:
    assert tail_of_t(t, freedom) == pytest.approx(p, rel=1e-4)


@pytest.mark.parametrize("runs", [4, 6, 12, 20])
@pytest.mark.parametrize("kind", ["gauss", "uniform", "cauchy", "rounded", "counted"])
def test_noise_of_any_kind_is_marked_hardly_more_often_than_asked_for(kind: str, runs: int) -> None:
    """300 series at 0.01: 3 marks are expected; 15 and more come in one of a million such tests, were it so."""
    rng = random.Random(f"{kind} {runs}")
    kinds: dict[str, Callable[[], float]] = {
        "gauss": partial(rng.gauss, 0, 1),
        "uniform": rng.random,
        "cauchy": lambda: rng.gauss(0, 1) / (rng.gauss(0, 1) or 1.0),
        "rounded": lambda: float(round(rng.gauss(0, 1))),
        "counted": lambda: float(rng.random() < 0.1) + float(rng.random() < 0.1),
    }
    draw = kinds[kind]
    marked = sum(bool(find_shifts([draw() for _ in range(runs)], 0.01)) for _ in range(300))
    assert marked <= (15 if kind != "cauchy" or runs < 20 else 25)


def test_a_change_is_found_where_it_is_and_one_run_alone_is_none() -> None:
    rng = random.Random(4)
    values = [100 + rng.gauss(0, 0.1) for _ in range(8)] + [97 + rng.gauss(0, 0.1) for _ in range(8)]
    (shift,) = find_shifts(values, 1e-4)
    assert shift.at == 8
    assert shift.ratio == pytest.approx(0.97, rel=3e-3)
    both = [*values, *(103 + rng.gauss(0, 0.1) for _ in range(6))]
    assert [shift.at for shift in find_shifts(both, 1e-4)] == [8, 16]
    assert find_shifts([*values[:8], 50.0], 0.05) == []
    assert find_shifts([50.0, *values[:8]], 0.05) == []
    assert find_shifts([1.0, 1.0, 1.0, 2.0, 2.0], 0.05) == [], "the other figure came twice"
    assert [shift.at for shift in find_shifts([1.0, 1.0, 1.0, 2.0, 2.0, 2.0], 1e-9)] == [3]
    far_off = [*values[:10], 97.0, 97.1, 20.0, 96.9, 97.0, 97.1, 96.9, 97.0, 97.1, 97.0, 96.9]
    assert [shift.at for shift in find_shifts(far_off, 1e-4)] == [8], "one run that is far off hides nothing"


def test_noise_that_is_small_by_luck_is_told_by_another_machine_and_a_fall_is_found_all_the_same() -> None:
    """Of 1,500 pairs of 3 + 3 runs with one noise: another machine takes marks away, none of a fall, and makes none."""
    rng = random.Random(8)
    alone = beside = falls = found = 0
    for _ in range(1500):
        one, other = ([1 + rng.gauss(0, 0.002) for _ in range(6)] for _ in range(2))
        with_other = find_shifts(one, 0.01, [other])
        alone += bool(find_shifts(one, 0.01))
        beside += bool(with_other)
        assert bool(with_other) <= bool(find_shifts(one, 0.01)), "none is made"
        fallen = [*one[:3], *(0.97 * value for value in one[3:])]
        falls += bool(find_shifts(fallen, 1e-3))
        found += bool(find_shifts(fallen, 1e-3, [other]))
    assert beside <= 0.8 * alone
    assert found >= 0.99 * falls >= 1400
    quiet = [1.0, 1.0001, 0.9999, 0.97, 0.9701, 0.9699]
    assert find_shifts(quiet, 1e-3, [[1.0, 1.08, 0.9, 1.1, 0.95, 1.02]]), "a machine that is much noisier is no ruler"
    assert find_shifts(quiet, 1e-3, [[30.0], [50.0, 50.1, 49.9, 48.5, 48.6, 48.4]]), "nor one that fell, too"


def test_two_runs_of_one_series_at_one_time_are_two_machines_or_two_gpus() -> None:
    found = make_runs(3, runs=3)
    assert trace(found).mixed == ()
    again = [{"pcie": replace(found[2]["pcie"], started_at="2026-11-02T03:00:05+00:00")}]
    ((one, other, series),) = trace(found + again).mixed
    assert (one.folder, other.folder, series.machine) == ("night-2", "night-6", "h200-f966")
    assert "tell them apart with HOST=FOLDER" in tell_mixed(one, other, series)
    odd = {"pcie": replace(found[2]["pcie"], started_at="9999-12-31T23:59:59+00:00", timings={"run_s": 1e300})}
    last = {"pcie": replace(odd["pcie"], summary="another")}
    assert trace([*found, odd, last, {"pcie": replace(found[1]["pcie"], started_at="once")}]).mixed == ()


def test_a_ratio_that_falls_by_3_percent_is_marked_on_its_machine_and_noise_is_not() -> None:
    history = trace(make_runs(3, regression=0.03))
    ((series, shift),) = history.changed
    assert (series.criterion, series.machine, series.points[shift.at].folder) == (RATIO, "h200-7097", "night-7")
    assert series.is_worse(shift)
    assert shift.ratio == pytest.approx(0.97, rel=0.01)
    assert [trace(make_runs(seed)).changed for seed in range(10, 16)] == [[]] * 6


def test_a_status_that_flips_without_a_marked_change_is_flaky() -> None:
    found = make_runs(5, regression=0.08)
    assert trace(found).flaky == [], "the flip is where the change is marked"
    for place in (2, 6, 10):
        data = found[place]["pcie"].to_dict()
        set_ratio(data, 0.899)
        found[place] = {"pcie": Outcome.from_dict(data)}
    (series,) = trace(found).flaky
    assert (series.criterion, series.machine, len(series.flaky_flips)) == (RATIO, "h200-f966", 5)


def test_an_outcome_that_two_folders_have_counts_once_and_hosts_that_are_alike_can_be_named() -> None:
    one, two, *_ = make_runs(6, runs=1)
    same = trace([one, one, two])
    assert same.repeated == ("night-1/pcie",)
    assert max(len(series.points) for series in same.series) == 1
    later = {"pcie": replace(one["pcie"], started_at="2026-11-02T03:00:00+00:00")}
    named = trace_history([
        Visit(label="a", outcomes=one, host="node-1"), Visit(label="b", outcomes=later, host="node-2"),
    ])  # fmt: skip
    assert set(named.machines) == {"node-1", "node-2"}
    assert all(len(series.points) == 1 for series in named.series)


def test_the_command_prints_marks_and_writes_a_page_and_names_what_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = write_runs(tmp_path, make_runs(3, regression=0.03))
    assert main(["history", *map(str, folders)]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"CHANGED  pcie: {RATIO} on h200-7097: .*worse\) since 2026-11-04 03:01, commit 030e885", said)
    assert "12 outcomes in 12 folders of 2 machines from 2026-11-01 to 2026-11-06" in said
    (folders[0] / "pcie.outcome.json").write_text("{")
    assert main(["history", *map(str, folders[:4]), str(tmp_path / "none")]) == 5
    told = capsys.readouterr()
    assert "3 outcomes in 3 folders" in told.out
    assert "is not JSON" in told.err
    assert "there is no such folder" in told.err
    assert main(["history", str(tmp_path / "none")]) == 2


def test_the_page_draws_what_varies_and_asks_for_nothing() -> None:
    found = make_runs(3, regression=0.03)
    for place, outcomes in enumerate(found):  # two rows are enough, and drawn in less time
        rows = tuple(row for row in outcomes["pcie"].criteria if row.name in (RATIO, "calibration", "rx_of_ceiling"))
        found[place] = {"pcie": replace(outcomes["pcie"], criteria=rows)}
    page = render_history("a <title>", trace(found), ["x/<b>: torn"])
    assert "a &lt;title&gt;" in page
    assert "x/&lt;b&gt;: torn" in page
    assert "pcie: 2 criteria whose figures differ from run to run, up to 6 runs a machine; 1 marked change." in page
    assert "commit 020e885 → 030e885" in page
    assert not re.search(r"https?://|<script|<link|@import", page)
    assert json.dumps(page)
