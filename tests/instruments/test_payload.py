"""Payload is counted right for every reader, with nothing known of it; where that cannot be, it is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.calibration import Calibration, calibrate_by_spans, calibrate_from_trace
from djinn_checks.instruments.counters import WRAP, CounterSeries, build_series
from djinn_checks.instruments.payload import ANSWER_BYTES, REQUEST_BYTES, PayloadCounter, RulerWeight, name_reader
from djinn_checks.instruments.traces import load_trace

TRACES = Path(__file__).parents[1] / "data" / "traces"
TRUTH: dict[str, Any] = json.loads((TRACES / "truth.json").read_text())
READING = RulerWeight(rx_bytes=16_472.0, tx_bytes=22_368.0)
BY_LAW = PayloadCounter(wire_per_payload=276 / 256, by_law=True, ruler=READING)


def carry(requests: dict[int, float], *, sent_data: float = 0.0, ms: int = 400, first: int = 0) -> CounterSeries:
    """Counters, read each millisecond, of requests by their size: data per second; and of data sent to the host."""
    rx = sum(rate * (size + ANSWER_BYTES) / size for size, rate in requests.items())
    tx = sum(rate * REQUEST_BYTES / size for size, rate in requests.items()) + sent_data * 280 / 256
    steps = np.arange(ms)
    times = 50 + steps / 1e3
    sums = [((rate / 1e3 + weight) * steps + first).astype(np.int64) % WRAP
            for rate, weight in ((rx, READING.rx_bytes), (tx, READING.tx_bytes))]  # fmt: skip
    return build_series(times, times, *sums, source="made")


sizes = st.sampled_from([32, 64, 96, 128, 256])
mixtures = st.dictionaries(sizes, st.floats(1e8, 2e10), min_size=1, max_size=3)


@given(requests=mixtures, first=st.integers(0, WRAP - 1), start=st.floats(50.01, 50.1), length=st.floats(0.05, 0.25))
def test_any_mixture_of_requests_is_counted_right(
    requests: dict[int, float], first: int, start: float, length: float
) -> None:
    series = carry(requests, first=first)
    counted = BY_LAW.between(series, start, start + length)
    assert counted == pytest.approx(sum(requests.values()) * length, rel=1e-4)
    bounds = BY_LAW.bounds(series, start, start + length)
    assert bounds is not None
    assert bounds.least <= counted * (1 + 1e-4) <= bounds.most * (1 + 2e-4)
    _, windows = BY_LAW.windows(series, start, start + length, 0.02)
    assert windows == pytest.approx(np.full(len(windows), sum(requests.values()) * 0.02), rel=1e-4)


@given(rate=st.floats(1e9, 3e10), back=st.floats(0, 3e10))
def test_data_on_their_way_to_the_host_never_count_as_read_and_the_bounds_hold(rate: float, back: float) -> None:
    series = carry({256: rate}, sent_data=back)
    bounds = BY_LAW.bounds(series, 50.05, 50.35)
    counted = BY_LAW.between(series, 50.05, 50.35)
    assert bounds is not None
    assert counted is not None
    assert bounds.least <= 0.3 * rate * (1 + 1e-4)
    assert bounds.most >= 0.3 * rate * (1 - 1e-4)
    assert counted <= 0.3 * rate * (1 + 1e-4)


def test_where_more_is_sent_than_requests_the_ratio_of_copies_is_used() -> None:
    series = carry({256: 20e9}, sent_data=20e9)
    assert BY_LAW.between(series, 50.05, 50.35) == pytest.approx(0.3 * 20e9, rel=1e-3)
    reader = BY_LAW.reader(series, 50.05, 50.35)
    assert reader is not None
    assert "to the host" in reader.says
    assert not reader.in_place


def test_a_ratio_of_copies_counts_a_reader_in_place_seven_percent_wrong_and_the_law_does_not() -> None:
    series = carry({128: 20e9})
    by_ratio = replace(BY_LAW, by_law=False, reason="not proved")
    assert by_ratio.between(series, 50.05, 50.35) == pytest.approx(1.0725 * 0.3 * 20e9, rel=1e-3)
    assert BY_LAW.between(series, 50.05, 50.35) == pytest.approx(0.3 * 20e9, rel=1e-4)


def test_an_idle_link_carries_nothing_though_it_is_read_a_thousand_times_a_second() -> None:
    assert BY_LAW.between(carry({}), 50.05, 50.35) == pytest.approx(0.0, abs=1.0)
    assert replace(BY_LAW, ruler=None, by_law=False).between(carry({}), 50.05, 50.35) == pytest.approx(
        0.3 * 16.472e6 / (276 / 256), rel=1e-3
    )


def test_lost_evidence_is_unknown() -> None:
    series = carry({256: 50e9})
    assert BY_LAW.between(series, 49.0, 50.2) is None
    assert BY_LAW.bounds(series, 50.1, 51.0) is None
    assert BY_LAW.reader(series, 50.1, 51.0) is None
    with pytest.raises(InstrumentError, match="expected a span"):
        BY_LAW.between(series, 50.2, 50.1)


@pytest.mark.parametrize(
    ("sent_of_received", "says", "in_place"),
    [
        (0.0870, "copies: 256", False),
        (0.0881, "copies: 252", False),
        (0.104, "copies: 211", False),
        (0.1622, "kernels that read in place: 128", True),
        (0.4615, "few words in place: 32", True),
        (0.12, "a mixture", False),
        (0.25, "a mixture", True),
        (0.9, "go to the host", False),
        (0.05, "requests that were not counted", False),
        (0.0, "requests that were not counted", False),
    ],
)
def test_what_was_sent_for_what_came_names_the_reader(sent_of_received: float, says: str, in_place: bool) -> None:
    reader = name_reader(1e9, sent_of_received * 1e9)
    assert says in reader.says
    assert reader.in_place is in_place


def known_copy() -> Calibration:
    known = TRUTH["copy_h2d"]
    trace = load_trace(TRACES / "copy_h2d.csv.gz")
    return calibrate_from_trace(trace, known["t_start_s"], known["t_end_s"], known["h2d_bytes"])


def test_a_recorded_copy_proves_the_law_and_weighs_a_reading() -> None:
    found = known_copy()
    assert found.law_error is not None
    assert found.law_error < 0.0005
    assert found.ruler is not None
    assert (found.ruler.rx_bytes, found.ruler.tx_bytes) == (
        pytest.approx(16_472, rel=0.02),
        pytest.approx(22_368, rel=0.02),
    )


@pytest.mark.parametrize("name", ["copy_h2d", "bursty", "pageable", "ring", "ring_fast_sampling"])
def test_recorded_reads_are_counted_right_by_the_law(name: str) -> None:
    span, trace = TRUTH[name], load_trace(TRACES / f"{name}.csv.gz")
    counter = known_copy().counter(trace)
    assert counter.by_law
    assert counter.between(trace, span["t_start_s"], span["t_end_s"]) == pytest.approx(span["h2d_bytes"], rel=0.001)
    reader = counter.reader(trace, span["t_start_s"], span["t_end_s"])
    assert reader is not None
    assert reader.says.startswith("copies")


def with_rest_before(series: CounterSeries, *, request_bytes: int = REQUEST_BYTES) -> CounterSeries:
    """A tenth of a second of rest, then a series, on a machine whose requests cost so much."""
    rest = carry({}, ms=100)
    own = READING.tx_bytes * np.arange(len(series.t_s))
    tx = own + (series.tx_bytes - own) * request_bytes / REQUEST_BYTES
    sums = [
        np.concatenate([a, a[-1] + b[1:]]).astype(np.int64) % WRAP
        for a, b in ((rest.rx_bytes, series.rx_bytes), (rest.tx_bytes, tx))
    ]
    times = np.concatenate([rest.t_s, series.t_s[1:] + 0.099])
    return build_series(times, times, *sums, source="made")


SPANS = ((50.005, 50.095), [(50.11, 50.21), (50.21, 50.31)], int(0.1 * 20e9))


def test_where_known_copies_are_not_counted_right_by_the_law_their_ratio_is_used_and_that_is_said() -> None:
    series = with_rest_before(carry({256: 20e9}, ms=300), request_bytes=30)
    found = calibrate_by_spans(series, *SPANS)
    assert found.law_error == pytest.approx(20 / 24 * 6 / 256, rel=0.01)
    counter = found.counter(series)
    assert not counter.by_law
    assert "off by the law" in counter.reason
    assert counter.between(series, 50.15, 50.35) == pytest.approx(0.2 * 20e9, rel=1e-4)


def test_a_source_of_rates_is_counted_by_the_ratio() -> None:
    series = carry({256: 20e9})
    rates = build_series(series.t_s, series.t_s, series.rx_bytes, series.tx_bytes, source="gpm", wraps=False)
    counter = Calibration(wire_per_payload=1.078, idle_bytes_per_s=0.0, residual=0.0, payload_bytes=1).counter(rates)
    assert not counter.by_law
    assert "rates" in counter.reason


def test_a_calibration_of_its_own_time_finds_the_weight_of_a_reading_and_the_law() -> None:
    series = with_rest_before(carry({256: 20e9}, ms=300))
    found = calibrate_by_spans(series, *SPANS)
    assert found.ruler == RulerWeight(rx_bytes=pytest.approx(16_472, abs=1), tx_bytes=pytest.approx(22_368, abs=1))
    assert found.law_error == pytest.approx(0, abs=1e-4)
    assert found.residual == pytest.approx(0, abs=1e-4)
    assert found.counter(series).by_law
    with pytest.raises(InstrumentError, match="no reading for the time"):
        calibrate_by_spans(series, (49.0, 49.1), [(50.11, 50.21)], 10)


@given(size=st.sampled_from([128, 256, 512]))
def test_a_machine_whose_copies_ask_for_other_sizes_names_them_by_its_own(size: int) -> None:
    series = with_rest_before(carry({size: 20e9}, ms=300))
    counter = calibrate_by_spans(series, *SPANS).counter(series)
    assert counter.by_law
    assert counter.largest_request_bytes == pytest.approx(size, rel=0.01)
    reader = counter.reader(series, 50.15, 50.35)
    assert reader is not None
    assert reader.says.startswith("copies")


def test_by_the_ratio_alone_another_reader_than_copies_has_bounds() -> None:
    by_ratio = replace(BY_LAW, by_law=False, reason="not proved", sent_of_copies=24 / 276)
    copies = by_ratio.bounds(carry({256: 20e9}), 50.05, 50.35)
    kernels = by_ratio.bounds(carry({128: 20e9}), 50.05, 50.35)
    assert copies is not None
    assert kernels is not None
    assert copies.least == copies.most == pytest.approx(0.3 * 20e9, rel=1e-4)
    assert kernels.least < 0.3 * 20e9 < kernels.most
