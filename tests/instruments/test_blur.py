"""A window is lost beside a query of which nobody knows when in it the counters were read."""

from __future__ import annotations

import numpy as np
import pytest

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.counters import WRAP, CounterSeries, build_series


def with_a_slow_query(took_s: float, at_s: float = 50.1) -> CounterSeries:
    """Counters of 50 GB/s, read each millisecond, with one query that took long; it read at its very end."""
    times = 50 + np.arange(400) / 1e3
    before = times[(times <= at_s) | (times > at_s + took_s)]
    after = before + 3e-4
    after[np.flatnonzero(before <= at_s)[-1]] = at_s + took_s
    sums = ((after - 50) * 50e9).astype(np.int64)
    return build_series(before, after, sums % WRAP, sums // 10 % WRAP, source="made")


def test_only_the_windows_beside_a_slow_query_are_lost() -> None:
    series = with_a_slow_query(0.012)
    assert series.holes == ()
    _, counted = series.windows(50.02, 50.38, 0.02)
    lost = np.isnan(counted)
    assert lost.tolist() == [number in (3, 4) for number in range(18)], "the one that it ends in, and the one behind"
    assert counted[~lost] == pytest.approx(50e9 * 0.02, rel=0.02)


def test_longer_windows_bear_the_same_query_and_a_fast_one_blurs_nothing() -> None:
    _, counted = with_a_slow_query(0.012).windows(50.02, 50.38, 0.08)
    assert counted == pytest.approx(np.full(4, 50e9 * 0.08), rel=0.1)
    assert np.isfinite(with_a_slow_query(0.003).windows(50.02, 50.38, 0.02)[1]).all()


def test_what_passed_in_a_run_is_known_beside_a_slow_query() -> None:
    assert with_a_slow_query(0.012).bytes_between(50.02, 50.38) == pytest.approx(0.36 * 50e9, rel=0.001)


def test_a_gap_is_a_hole_if_a_wrap_could_hide_in_it_on_this_link() -> None:
    gap = with_a_slow_query(0.04)
    assert len(gap.holes) == 2, "on a link that nobody measured: before the slow query and behind it"
    assert gap.over(60e9).holes == ()
    assert gap.over(60e9).bytes_between(50.02, 50.38) == pytest.approx(0.36 * 50e9, rel=0.001)
    assert len(with_a_slow_query(0.07).over(60e9).holes) > 0
    assert len(gap.over(1e12).holes) == 2, "no faster than any link there is, and a wrap as before at most"
    with pytest.raises(InstrumentError, match="top rate: expected more than 0"):
        gap.over(0.0)


def test_a_usual_query_blurs_no_window_however_short() -> None:
    _, counted = with_a_slow_query(0.0015).windows(50.02, 50.38, 0.001)
    assert np.isfinite(counted).all()
