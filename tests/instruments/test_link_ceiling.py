"""The ceiling of a host-memory link is measured, verified and labelled as one."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments import link_ceiling
from djinn_checks.instruments.counters import WRAP, CounterSeries, build_series
from djinn_checks.instruments.link_ceiling import calibrate, measure_ceiling, sweep_chunks
from djinn_checks.units import MIB

CPU = torch.device("cpu")


@pytest.mark.parametrize("direction", ["h2d", "d2h", "both"])
def test_copies_within_host_memory_have_a_rate_and_say_what_they_are(direction: str) -> None:
    found = measure_ceiling(CPU, direction=direction, nbytes=4 * MIB, samples=3)
    assert found.kind == "host memory"
    assert found.verified
    assert len(found.samples_s) == 3
    assert 1e8 < found.bytes_per_s < 1e12
    assert found.bytes_per_s == pytest.approx((2 if direction == "both" else 1) * 4 * MIB / min(found.samples_s))
    assert found.copied_bytes == 5 * 4 * 4 * MIB
    assert found.end_s - found.start_s >= sum(found.samples_s)


@given(slowed=st.lists(st.floats(1.0, 100.0), max_size=7))
def test_a_neighbour_that_slows_some_rounds_does_not_lower_the_ceiling(slowed: list[float]) -> None:
    rounds = [0.002, 0.002, *(0.001 * factor for factor in slowed), 0.001]
    with patch.object(link_ceiling, "_time_on_host", lambda pairs, count: list(rounds)):
        found = measure_ceiling(CPU, nbytes=MIB, samples=len(rounds) - 2)
    assert found.bytes_per_s == pytest.approx(MIB / 0.001)
    assert found.spread == pytest.approx(max([1.0, *slowed]) - 1)


def test_bytes_that_did_not_arrive_are_not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_ceiling, "_time_on_host", lambda pairs, count: [0.001] * count)
    assert not measure_ceiling(CPU, nbytes=MIB, samples=3).verified


def test_a_sweep_has_one_row_a_size() -> None:
    assert [row.nbytes for row in sweep_chunks(CPU, [MIB, 2 * MIB], pinned=False, samples=2)] == [MIB, 2 * MIB]


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'up'"):
        measure_ceiling(CPU, direction="up")


class Readings:
    """A sampler whose readings come as a list says, the last one time and again."""

    def __init__(self, *series: CounterSeries) -> None:
        self.source, self.alive = "made", True
        self.coming = list(series)

    def read(self) -> CounterSeries:
        return self.coming.pop(0) if len(self.coming) > 1 else self.coming[0]


def readings(end_s: float, hole: tuple[float, float] = (0.0, 0.0)) -> CounterSeries:
    """Counters read each millisecond, but for a hole: 20 GB/s pass between 0.1 and 0.3 s of each second."""
    times = np.arange(0, end_s, 0.001)
    sums = 20e9 * (np.floor(times) * 0.2 + np.clip(np.mod(times, 1) - 0.1, 0, 0.2)) + 1000 * np.arange(len(times))
    rx, kept = sums.astype(np.int64) % WRAP, (times <= hole[0]) | (times >= hole[1])
    return build_series(times[kept], times[kept], rx[kept], (rx // 10)[kept], source="made")


def test_known_copies_wait_for_a_late_reading_and_are_made_again_where_a_hole_lies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = iter([0.0, 1.0, 2.0])

    def copy(*_: object, **__: object) -> tuple[link_ceiling.Span, list[link_ceiling.Span], int]:
        start = next(begun)
        return (start, start + 0.1), [(start + 0.1, start + 0.2), (start + 0.2, start + 0.3)], int(0.1 * 20e9)

    monkeypatch.setattr(link_ceiling, "copy_known", copy)
    late: Any = Readings(readings(0.05), readings(0.2), readings(0.5))
    assert calibrate(late, CPU).wire_per_payload == pytest.approx(1.0, rel=1e-3)
    again: Any = Readings(readings(2.5, hole=(1.1, 1.4)))
    assert calibrate(again, CPU).wire_per_payload == pytest.approx(1.0, rel=1e-3)  # the second, at 2.0
    begun = iter([1.0, 1.0, 1.0])
    with pytest.raises(InstrumentError, match="no reading for the time of the known copy"):
        calibrate(again, CPU)
