"""What no link can carry and no live counter can show is found, and nothing else is."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.counters import FROZEN_S, WRAP, CounterSeries, build_series, check_span
from djinn_checks.instruments.impossible import Step, find_fastest_steps, find_standstill
from djinn_checks.instruments.traces import load_trace

TRACES = Path(__file__).parents[1] / "data" / "traces"
QUERY_S = 0.0003


def read(rates: list[float], start: int = 0, gap_s: float = 0.001, wraps: bool = True) -> CounterSeries:
    """Readings of a link that carries each rate for `gap_s`; TX sends a tenth, and each reading moves 14 kB."""
    times = 50.0 + gap_s * np.arange(len(rates) + 1)
    true = start + np.concatenate([[0], np.cumsum(np.array(rates) * gap_s + 14_000)]).astype(np.int64)
    sent = true // 10
    raw = (true % WRAP, sent % WRAP) if wraps else (true, sent)
    return build_series(times, times + QUERY_S, *raw, source="made", wraps=wraps)


def fastest(series: CounterSeries) -> Step | None:
    steps = find_fastest_steps(series, float(series.t_s[0]), float(series.t_s[-1]))
    return max(steps, key=lambda step: step.bytes_per_s, default=None)


@given(st.lists(st.floats(0, 6e10), min_size=1, max_size=60), st.integers(0, WRAP - 1), st.booleans())
def test_no_step_is_faster_than_the_link_was_wherever_the_counters_wrap(
    rates: list[float], start: int, wraps: bool
) -> None:
    step = fastest(read(rates, start, wraps=wraps))
    most = max(rates) + 14_000 / 0.001
    assert step is None or step.bytes_per_s <= most * (1 + 1e-6) + 2 / 0.001


@given(st.floats(1e9, 6e10), st.integers(0, WRAP - 1), st.integers(30, 90))
def test_a_counter_that_is_set_back_shows_more_than_a_link_can_carry(rate: float, start: int, at: int) -> None:
    honest = read([rate] * 100, start)
    lost = int(honest.raw.rx[at])
    # Where the last reading before lay nearer to the wrap than a step of 20 ms carries, it looks like one.
    assume(WRAP - int(honest.raw.rx[at - 1]) > 128e9 * 0.022)
    raw = honest.raw.rx.copy()
    raw[at:] = (raw[at:] - lost) % WRAP
    spoilt = build_series(honest.raw.before_s, honest.raw.after_s, raw, honest.raw.tx, source="made")
    step = fastest(spoilt)
    assert step is not None
    assert step.direction == "rx"
    assert step.bytes_per_s > 128e9
    assert step.at_s == pytest.approx(honest.t_s[at - 1], abs=0.021)


@settings(max_examples=40)
@given(st.integers(1, 299), st.integers(1, 299), st.sampled_from(["rx", "tx"]))
def test_a_counter_that_stops_alone_is_named_with_the_time_it_stood(first: int, second: int, which: str) -> None:
    low, high = sorted((first, second))
    honest = read([2e10] * 300)
    raw = {"rx": honest.raw.rx.copy(), "tx": honest.raw.tx.copy()}
    raw[which][low : high + 1] = raw[which][low]
    spoilt = build_series(honest.raw.before_s, honest.raw.after_s, raw["rx"], raw["tx"], source="made")
    still = find_standstill(spoilt, 50.0, 60.0)
    if low == high:
        assert still is None
        return
    assert still is not None
    assert still.direction == which
    assert still.seconds == pytest.approx((high - low) * 0.001)
    assert still.other_bytes > 0


def test_both_counters_still_is_a_hole_and_no_standstill_of_one() -> None:
    honest = read([2e10] * 300)
    rx, tx = honest.raw.rx.copy(), honest.raw.tx.copy()
    rx[100:250], tx[100:250] = rx[100], tx[100]
    spoilt = build_series(honest.raw.before_s, honest.raw.after_s, rx, tx, source="made")
    assert len(spoilt.holes) == 1
    assert find_standstill(spoilt, 50.0, 60.0) is None


def test_a_source_of_rates_may_say_zero() -> None:
    still = build_series(np.arange(9.0), np.arange(9.0), np.zeros(9, int), np.arange(9), source="gpm", wraps=False)
    assert find_standstill(still, 0.0, 8.0) is None


@pytest.mark.parametrize(
    "name", ["bursty", "copy_d2h", "copy_h2d", "pageable", "resident", "ring", "ring_fast_sampling"]
)
def test_honest_traces_show_neither(name: str) -> None:
    series = load_trace(TRACES / f"{name}.csv.gz")
    step = fastest(series)
    assert step is not None
    assert step.bytes_per_s < 63.02e9, "16 lanes of 32 GT/s, 128 of 130 bits"
    still = find_standstill(series, float(series.t_s[0]), float(series.t_s[-1]))
    assert still is None or still.seconds < FROZEN_S


no_numbers = st.sampled_from([math.nan, math.inf, -math.inf])
instants = st.floats(-1e6, 1e6)


@given(st.one_of(instants, no_numbers), st.one_of(instants, no_numbers))
def test_a_span_counts_only_if_it_goes_forward(start: float, end: float) -> None:
    series = read([1e9] * 50)
    if math.isfinite(start) and math.isfinite(end) and start < end:
        check_span(start, end, "it")
        counted = series.bytes_between(start, end)
        assert counted is None or counted >= 0
        return
    for count in (series.bytes_between, series.longest_gap_s, lambda a, b: series.windows(a, b, 0.02)):
        with pytest.raises(InstrumentError, match=r"made: expected a span that ends after it starts.*got .*; check"):
            count(start, end)


@pytest.mark.parametrize("window_s", [0.0, -0.02, math.nan, math.inf])
def test_windows_without_a_length_are_refused(window_s: float) -> None:
    with pytest.raises(InstrumentError, match="expected windows longer than 0 s, got"):
        read([1e9] * 50).windows(50.0, 50.05, window_s)


@given(st.one_of(st.integers(WRAP, 2**63 - 1), st.integers(-(2**63), -1)), st.integers(0, 4), st.booleans())
def test_values_that_32_bits_do_not_hold_are_refused_by_name(value: int, at: int, sent: bool) -> None:
    times = np.arange(5.0)
    good, bad = np.arange(5), np.arange(5)
    bad[at] = value
    with pytest.raises(InstrumentError, match=rf"made: bytes {'sent' if sent else 'received'}: .*reading {at + 1};"):
        build_series(times, times, *((good, bad) if sent else (bad, good)), source="made")


def test_a_running_sum_that_goes_back_is_refused() -> None:
    times, sums = np.arange(4.0), np.array([0, 2**40, 2**39, 2**41])
    with pytest.raises(InstrumentError, match=r"expected a running sum.*reading 3; was the source started anew"):
        build_series(times, times, sums, sums, source="gpm", wraps=False)


@pytest.mark.parametrize(
    ("before", "after"), [([0, 1, math.nan], [0, 1, 2]), ([0, 2, 1], [0, 2, 1]), ([0, 1, 2], [0, 0.5, 2])]
)
def test_clocks_that_run_backward_or_are_no_numbers_are_refused(before: list[float], after: list[float]) -> None:
    with pytest.raises(InstrumentError, match=r"made: expected times that are finite and go forward, got .*reading"):
        build_series(np.array(before, float), np.array(after, float), np.arange(3), np.arange(3), source="made")


def test_columns_of_other_lengths_are_refused() -> None:
    with pytest.raises(InstrumentError, match="expected two clocks for each reading, got 3 before and 2 after"):
        build_series(np.arange(3.0), np.arange(2.0), np.arange(3), np.arange(3), source="made")
    with pytest.raises(InstrumentError, match="bytes received: expected 3 values, as many as times, got 2"):
        build_series(np.arange(3.0), np.arange(3.0), np.arange(2), np.arange(3), source="made")
