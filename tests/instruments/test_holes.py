"""Where readings are missing, what passed is never said to be more than it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from djinn_checks.instruments.counters import WRAP, CounterSeries, build_series
from djinn_checks.instruments.holes import known_spans, least_between, rate_outside_holes

RATE = 60e9
STEP_S = 1e-3
READINGS = 400


def made(kept: list[int], busy: tuple[int, int]) -> tuple[CounterSeries, np.ndarray]:
    """Make a link that carries RATE in the busy milliseconds and 20 MB/s else, of which some readings are kept."""
    at_s = STEP_S * np.arange(READINGS)
    passed = 20e6 * at_s + RATE * np.clip(at_s - STEP_S * busy[0], 0, STEP_S * (busy[1] - busy[0]))
    whole = passed.astype(np.int64)
    raw = np.mod(whole[kept], WRAP)
    return build_series(at_s[kept], at_s[kept], raw, raw, source="made", top_rate_bytes_per_s=RATE), whole


@st.composite
def links(draw: st.DrawFn) -> tuple[CounterSeries, np.ndarray]:
    first = draw(st.integers(0, READINGS - 2))
    busy = first, draw(st.integers(first + 1, READINGS - 1))
    gap = st.tuples(st.integers(1, READINGS - 42), st.integers(40, 200))  # so long, to the last reading too, is a hole
    gaps = draw(st.lists(gap, max_size=3))
    missing = {number for start, length in gaps for number in range(start, start + length)}
    kept = [number for number in range(READINGS) if number not in missing or number in (0, READINGS - 1)]
    return made(kept, busy)


@given(links(), st.integers(0, READINGS - 2), st.integers(1, READINGS))
def test_the_least_is_no_more_than_what_passed_and_off_by_whole_wraps_between_readings(
    link: tuple[CounterSeries, np.ndarray], start: int, length: int
) -> None:
    series, passed = link
    end = min(READINGS - 1, start + length)
    start_s, end_s = STEP_S * start, STEP_S * end
    least = least_between(series, start_s, end_s)
    truth = passed[end] - passed[start]
    assert least is not None
    assert least <= truth + 1
    if not series.holes:
        assert least == pytest.approx(truth, abs=1)
    if {round(start_s / STEP_S), round(end_s / STEP_S)} <= {round(at / STEP_S) for at in series.t_s}:
        off = (truth - least) % WRAP
        assert min(off, WRAP - off) <= 2


@given(links())
def test_what_is_known_lies_between_the_holes_in_order(link: tuple[CounterSeries, np.ndarray]) -> None:
    series, _ = link
    spans = known_spans(series, 0.0, STEP_S * (READINGS - 1))
    assert all(series.bytes_between(*span) is not None for span in spans)
    assert all(first < last for first, last in spans)
    assert [*spans] == sorted(spans)
    known = sum(last - first for first, last in spans)
    lost = sum(last - first for first, last in series.holes)
    assert known + lost == pytest.approx(STEP_S * (READINGS - 1))


def test_a_rate_is_that_of_the_known_time_and_unknown_where_most_of_it_is_missing() -> None:
    kept = [number for number in range(READINGS) if not 100 <= number < 200]
    series, _ = made(kept, (120, 150))
    whole = STEP_S * (READINGS - 1)
    assert rate_outside_holes(series, 0.0, whole) == pytest.approx(20e6, rel=1e-3)
    assert rate_outside_holes(series, 0.09, 0.19) is None


def test_what_was_read_too_late_or_never_is_not_known() -> None:
    series, _ = made([number for number in range(READINGS) if not 100 <= number < 200], (0, 1))
    assert least_between(series, 0.3, 0.5) is None
    assert least_between(series, 0.12, 0.18) == 0.0
    empty = build_series(*[np.array([]) for _ in range(4)], source="made")
    assert known_spans(empty, 0.0, 1.0) == []
    assert least_between(empty, 0.0, 1.0) is None
