"""Where each query of the counters takes long, windows blur; what passed in all of them decides what it can."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from djinn_checks.checks.pcie.criteria import _bound_lost_windows, judge_evidence
from djinn_checks.checks.pcie.evidence import PcieEvidence
from djinn_checks.faults.pcie.traffic import CEILING, CLAIMED_BYTES, FULL_RATE, START_S, make_evidence, make_series
from djinn_checks.instruments.counters import CounterSeries, build_series
from djinn_checks.outcome import Criterion, Status

WINDOW_S = 0.02
RATES = st.lists(st.floats(0.0, 1.1), min_size=25, max_size=25)


def blur(series: CounterSeries) -> CounterSeries:
    """Return a series as read where a query takes 9 ms."""
    every = slice(None, None, 10)
    t, rx, tx = series.t_s[every], series.rx_bytes[every], series.tx_bytes[every]
    return build_series(t - 0.0045, t + 0.0045, rx % 2**32, tx % 2**32, source=series.source)


def evidence(share: float) -> PcieEvidence:
    return make_evidence(blur(make_series(share * FULL_RATE)), claimed_bytes=int(share * CLAIMED_BYTES))


def rows(found: PcieEvidence) -> dict[str, Criterion]:
    return {row.name: row for row in judge_evidence(found)}


def test_all_windows_are_blurred_and_what_passed_is_known_all_the_same() -> None:
    found = evidence(1.0)
    assert found.window_rates is not None
    assert np.isnan(found.window_rates).all()
    assert rows(found)["claimed_vs_counted"].status is Status.PASS
    assert rows(found)["streams_the_model"].status is Status.PASS


@pytest.mark.parametrize(
    ("share", "threshold", "ceiling"),
    [
        (1.0, Status.PASS, Status.INCONCLUSIVE),  # of 20 ms nobody knows that each had 90 % of the ceiling
        (
            0.8,
            Status.INCONCLUSIVE,
            Status.FAIL,
        ),  # with so few bytes at most 89 % of the windows had 90 % of the ceiling
        (0.2, Status.FAIL, Status.FAIL),
    ],
)
def test_the_sum_decides_what_it_can(share: float, threshold: Status, ceiling: Status) -> None:
    found = rows(evidence(share))
    assert (found["rx_above_threshold"].status, found["rx_of_ceiling"].status) == (threshold, ceiling)


@given(RATES, st.floats(0.05, 1.0))
def test_the_true_number_of_windows_lies_between_the_bounds(rates: list[float], limit: float) -> None:
    def rate(t: float) -> float:
        return rates[int((t - START_S) / WINDOW_S + 1e-6) % len(rates)] * CEILING

    found = make_evidence(blur(make_series(rate)))
    assert found.window_rates is not None
    count = len(found.window_rates)
    low, high = _bound_lost_windows(found, found.window_rates, found.counted_bytes, limit * CEILING)
    edge = 0.001  # a window whose rate is the limit to the last places is counted by either side
    above = sum(rates[n % len(rates)] > limit + edge for n in range(count))
    below = sum(rates[n % len(rates)] >= limit - edge for n in range(count))
    slack = 2 + 0.01 * count  # the readings at both ends, and interpolation
    assert low <= below + slack
    assert high >= above - slack
