"""Counters are unwrapped rightly where that is possible, and say so where it is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.calibration import calibrate_from_trace
from djinn_checks.instruments.counters import TOP_RATE_BYTES_PER_S, WRAP, CounterSeries, build_series
from djinn_checks.instruments.traces import load_trace, save_trace

TRACES = Path(__file__).parents[1] / "data" / "traces"
TRUTH = json.loads((TRACES / "truth.json").read_text())
HALF_WRAP_S = WRAP / 2 / TOP_RATE_BYTES_PER_S


def series(gaps_s: list[float], rates: list[float], start: int = 0) -> tuple[CounterSeries, list[int]]:
    """Build a series of readings that lie `gaps_s` apart, and the true sums of received bytes."""
    times = np.concatenate([[100.0], 100.0 + np.cumsum(gaps_s)])
    true = [start]
    for gap, rate in zip(gaps_s, rates, strict=True):
        true.append(true[-1] + max(1, int(gap * rate)))
    raw = np.array([value % WRAP for value in true], dtype=np.int64)
    return build_series(times, times, raw, raw // 7, source="fake"), true


rates = st.floats(0, TOP_RATE_BYTES_PER_S)
short_gaps = st.floats(1e-4, 0.999 * HALF_WRAP_S)
long_gaps = st.floats(1.001 * HALF_WRAP_S, 5.0)
starts = st.integers(0, WRAP - 1)


@given(st.lists(st.tuples(short_gaps, rates), min_size=1, max_size=60), starts)
def test_with_gaps_below_half_a_wrap_every_byte_is_counted(steps: list[tuple[float, float]], start: int) -> None:
    found, true = series([gap for gap, _ in steps], [rate for _, rate in steps], start)
    assert found.holes == ()
    assert found.rx_bytes.tolist() == [value - start for value in true]
    assert found.bytes_between(found.t_s[0], found.t_s[-1]) == true[-1] - start


@given(st.lists(st.tuples(st.one_of(short_gaps, long_gaps), rates), min_size=2, max_size=40), starts)
def test_a_gap_above_half_a_wrap_is_a_hole_and_nothing_outside_of_it_is(
    steps: list[tuple[float, float]], start: int
) -> None:
    gaps = [gap for gap, _ in steps]
    found, true = series(gaps, [rate for _, rate in steps], start)
    long = [i for i, gap in enumerate(gaps) if gap > HALF_WRAP_S]
    assert [hole for hole in found.holes if hole[1] - hole[0] > HALF_WRAP_S] == [
        (found.t_s[i], found.t_s[i + 1]) for i in long
    ]
    for i in range(len(gaps)):
        counted = found.bytes_between(found.t_s[i], found.t_s[i + 1])
        assert counted == (None if i in long else pytest.approx(true[i + 1] - true[i], abs=1))


@settings(max_examples=30)
@given(st.floats(0.002, 0.05), st.floats(1e8, 6e10))
def test_windows_of_a_steady_link_are_steady_and_add_up(window_s: float, rate: float) -> None:
    found, _ = series([0.001] * 400, [rate] * 400)
    _, counted = found.windows(100.0, 100.4, window_s)
    assert np.isfinite(counted).all()
    assert counted == pytest.approx(rate * window_s, rel=1e-3, abs=2)


def test_windows_that_a_hole_touches_or_that_lie_outside_are_unknown_and_not_zero() -> None:
    found, _ = series([0.001] * 50 + [0.2] + [0.001] * 50, [5e10] * 101)
    _, counted = found.windows(100.005, 100.395, 0.01)
    known = [*range(4), *range(25, 29)]  # the hole is 100.05 to 100.25, the last reading at 100.3
    assert np.flatnonzero(np.isfinite(counted)).tolist() == known


def test_counters_that_stand_still_are_lost_evidence_and_an_idle_link_is_not() -> None:
    idle, _ = series([0.001] * 200, [1e6] * 200)
    assert idle.holes == ()
    times = 100 + 0.001 * np.arange(300)
    raw = np.minimum(np.arange(300), 100) * 10_000_000
    frozen = build_series(times, times, raw, raw, source="fake")
    assert frozen.holes == ((pytest.approx(100.1), pytest.approx(100.299)),)
    assert frozen.bytes_between(100.05, 100.2) is None


def test_an_uncertain_moment_of_reading_counts_towards_the_gap() -> None:
    before = np.array([0.0, 0.010])
    found = build_series(before, before + np.array([0.0, 0.010]), np.array([0, 5]), np.array([0, 5]), source="fake")
    assert np.diff(found.t_s)[0] < HALF_WRAP_S < 0.020
    assert len(found.holes) == 1, "the clocks allow 20 ms, though the middles are 15 ms apart"


@pytest.mark.parametrize("name", ["bursty", "pageable", "ring", "ring_fast_sampling"])
def test_recorded_traces_agree_with_what_was_really_moved(name: str) -> None:
    known, span = TRUTH["copy_h2d"], TRUTH[name]
    copy = load_trace(TRACES / "copy_h2d.csv.gz")
    found = calibrate_from_trace(copy, known["t_start_s"], known["t_end_s"], known["h2d_bytes"])
    trace = load_trace(TRACES / f"{name}.csv.gz")
    wire = trace.bytes_between(span["t_start_s"], span["t_end_s"])
    assert wire is not None
    assert trace.holes == ()
    assert wire / found.wire_per_payload == pytest.approx(span["h2d_bytes"], rel=0.003)


def test_a_saved_trace_is_read_back_with_the_same_sums(tmp_path: Path) -> None:
    trace = load_trace(TRACES / "bursty.csv.gz")
    save_trace(trace, tmp_path / "again.csv.gz")
    again = load_trace(tmp_path / "again.csv.gz")
    assert (again.rx_bytes == trace.rx_bytes).all()
    assert (again.raw.rx == trace.raw.rx).all()
    assert (again.raw.tx == trace.raw.tx).all()
    assert np.abs(again.t_s - trace.t_s).max() < 1e-6


@pytest.mark.parametrize("content", [b"", b"not gzip", None])
def test_a_file_that_is_no_trace_is_refused_by_name(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InstrumentError, match=r"x\.csv\.gz"):
        load_trace(path)


def test_a_span_is_enclosed_by_readings_that_were_certainly_taken_outside_of_it() -> None:
    before = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    after = before + np.array([0.5, 0.5, 0.9, 0.1, 0.5])
    zeros = np.zeros(5, dtype=np.int64)
    series = build_series(before, after, zeros, zeros, source="fake")
    assert series.enclose(1.7, 2.5) == (1.25, 3.05)
    assert series.enclose(2.0, 3.02) == (1.25, 4.25)  # both edges lie within a query: the one before, and the one after
    assert series.enclose(0.2, 2.0) is None
    assert series.enclose(2.0, 4.1) is None
    with pytest.raises(InstrumentError, match="ends after it starts"):
        series.enclose(2.0, 2.0)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_however_slow_queries_are_what_lies_between_the_enclosing_readings_is_never_too_little(seed: int) -> None:
    """Traffic comes in a block; each reading is taken at some instant within a query of 0.3 to 17 ms."""
    chance = np.random.default_rng(seed)
    start, end, rate = 0.1, 0.1 + chance.uniform(0.02, 0.3), 46e9
    before = np.cumsum(np.concatenate([[0.0], chance.uniform(0.0003, 0.001, 400)]))
    slow = (before > start - 0.01) & (before < end)
    query = np.where(slow, chance.uniform(0.003, 0.017, len(before)), 0.0005)
    before = np.cumsum(np.concatenate([[0.0], np.maximum(query[:-1], 0.001)]))
    after = before + query
    taken = before + chance.uniform(0, 1, len(before)) * query
    counted = (np.clip(taken, start, end) - start) * rate
    raw = ((counted + 1e6 * taken).astype(np.int64)) % 2**32  # each query moves a little itself
    series = build_series(before, after, raw, raw, source="fake").over(64e9)
    around = series.enclose(start, end)
    assert around is not None
    assert (series.bytes_between(*around) or 0) >= int((end - start) * rate) - 1
