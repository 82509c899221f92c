"""A burst took no less than the least time and no more than the greatest, whenever the counters were read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from djinn_checks.instruments.burst import BurstTime, time_burst
from djinn_checks.instruments.counters import CounterSeries, Floats, build_series
from djinn_checks.instruments.traces import load_trace

TRACES = Path(__file__).parents[1] / "data" / "traces"
TOP = 50e9
NBYTES = 1e9
MILLISECONDS = np.arange(0, 1, 1e-3)


def read(
    starts: Floats, queries: Floats, bursts: list[tuple[float, float]], *, rate: float = TOP, latch: float = 0.5
) -> CounterSeries:
    """Make readings of queries that begin at `starts` and read the counter at a share `latch` of their length."""
    read_s = starts + latch * queries
    sums = np.sum([np.clip((read_s - start_s) * rate, 0, nbytes) for start_s, nbytes in bursts], axis=0)
    raw = np.mod(sums + 1e6 * read_s, 2**32).astype(np.int64)  # a link at rest carries a megabyte a second
    return build_series(starts, starts + queries, raw, raw, source="made")


def timed(series: CounterSeries, nbytes: float = NBYTES) -> BurstTime:
    found = time_burst(series, nbytes, 0.1, 0.9, direction="rx", top_bytes_per_s=TOP)
    assert found is not None
    return found


def test_a_burst_at_the_top_rate_is_timed_to_the_microsecond() -> None:
    found = timed(read(MILLISECONDS, 0 * MILLISECONDS, [(0.3004, 1.2 * NBYTES)]))
    assert found.least_s == pytest.approx(NBYTES / TOP, abs=1e-6)
    assert found.greatest_s == pytest.approx(NBYTES / TOP, abs=1e-6)


def test_a_pause_counts() -> None:
    found = timed(read(MILLISECONDS, 0 * MILLISECONDS, [(0.3004, NBYTES / 2), (0.3404, NBYTES / 2)]))
    assert found.least_s == pytest.approx(0.05, abs=1e-4)
    assert found.greatest_s >= 0.05


def test_what_passed_before_and_after_does_not_count() -> None:
    bursts = [(0.12, 0.3 * NBYTES), (0.5, NBYTES), (0.7, 0.3 * NBYTES)]
    assert timed(read(MILLISECONDS, 0 * MILLISECONDS, bursts)).least_s == pytest.approx(NBYTES / TOP, abs=1e-4)


def test_fewer_bytes_have_no_time() -> None:
    series = read(MILLISECONDS, 0 * MILLISECONDS, [(0.3, 0.9 * NBYTES)])
    assert time_burst(series, NBYTES, 0.1, 0.9, direction="rx", top_bytes_per_s=TOP) is None


def test_a_burst_between_two_readings_may_have_taken_all_of_the_gap() -> None:
    found = timed(read(MILLISECONDS, 0 * MILLISECONDS, [(0.3002, 5e6)]), 5e6)
    assert found.least_s == pytest.approx(5e6 / TOP)
    assert found.greatest_s >= 0.9e-3


@pytest.mark.parametrize("lost", [(0.2, 0.25), (0.85, 1.0)])
def test_where_readings_are_missing_nothing_is_timed(lost: tuple[float, float]) -> None:
    kept = MILLISECONDS[(lost[0] > MILLISECONDS) | (lost[1] < MILLISECONDS)]
    series = read(kept, 0 * kept, [(0.3, NBYTES)])
    assert time_burst(series, 0.5 * NBYTES, 0.1, 0.9, direction="rx", top_bytes_per_s=TOP) is None


@given(
    share=st.floats(0.05, 1.0),
    start_s=st.floats(0.2, 0.3),
    nbytes=st.floats(1e6, 1e9),
    gaps=st.lists(st.floats(6e-4, 5e-3), min_size=10, max_size=10),
    queries=st.lists(st.floats(1e-5, 5e-4), min_size=7, max_size=7),
    latch=st.floats(0, 1),
)
def test_the_true_time_lies_between_the_two(
    share: float, start_s: float, nbytes: float, gaps: list[float], queries: list[float], latch: float
) -> None:
    steps = np.resize(gaps, int(1 / min(gaps)))
    starts = np.concatenate([[0.0], np.cumsum(steps)])
    starts = starts[: int(np.searchsorted(starts, 0.95)) + 1]
    series = read(starts, np.resize(queries, len(starts)), [(start_s, nbytes / 0.9)], rate=share * TOP, latch=latch)
    found, true_s = timed(series, nbytes), nbytes / (share * TOP)
    at_rest_s = 1e6 * true_s / (share * TOP) + 1e-6  # what the link carries besides makes it look faster
    assert found.least_s <= true_s + 1e-6
    assert found.greatest_s >= true_s - max(queries) - at_rest_s
    assert found.greatest_s - found.least_s <= 2 * max(gaps) + 2 * max(queries) + at_rest_s


def test_real_bursts_are_timed_with_their_pauses() -> None:
    """A recorded trace: copies of 256 MiB at 55 GB/s and 5 ms of rest behind each."""
    series = load_trace(TRACES / "bursty.csv.gz")
    truth = json.loads((TRACES / "truth.json").read_text())["bursty"]
    start_s, end_s, payload = truth["t_start_s"], truth["t_end_s"], truth["h2d_bytes"]
    wire = series.bytes_between(start_s, end_s)
    assert wire is not None
    top = 55.3e9 * wire / payload
    found = time_burst(series, 0.9 * wire, start_s, end_s, direction="rx", top_bytes_per_s=top)
    assert found is not None
    assert found.least_s <= 0.9 * (end_s - start_s) * 1.003
    assert found.greatest_s >= 0.9 * (end_s - start_s) * 0.995
    one_copy = time_burst(series, 0.9 * 2**28 * wire / payload, start_s, end_s, direction="rx", top_bytes_per_s=top)
    assert one_copy is not None
    assert one_copy.least_s == pytest.approx(0.9 * 2**28 / 55.3e9, rel=0.02)


@pytest.mark.parametrize(("name", "direction"), [("copy_h2d", "rx"), ("copy_d2h", "tx")])
def test_real_copies_at_less_than_the_top_rate_are_timed_within_a_few_percent(name: str, direction: str) -> None:
    """20 ms of recorded copies at a time, on a link that could carry a sixteenth more."""
    series = load_trace(TRACES / f"{name}.csv.gz")
    truth = json.loads((TRACES / "truth.json").read_text())[name]
    start_s, end_s = truth["t_start_s"] + 0.05, truth["t_end_s"] - 0.05
    wire = series.bytes_between(start_s, end_s, direction)
    assert wire is not None
    rate = wire / (end_s - start_s)
    lowest, highest = [], []
    for at in np.arange(start_s, end_s - 0.03, 0.03):
        found = time_burst(series, 0.02 * rate, at, at + 0.022, direction=direction, top_bytes_per_s=rate / 0.94)
        assert found is not None
        lowest.append(0.02 / found.greatest_s)
        highest.append(0.02 / found.least_s)
    assert np.median(lowest) == pytest.approx(1.0, abs=0.01)
    assert np.median(highest) == pytest.approx(1.04, abs=0.015)
