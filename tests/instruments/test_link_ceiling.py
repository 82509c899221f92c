"""The ceiling of a host-memory link is measured, verified and labelled as one."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_checks.instruments import link_ceiling
from djinn_checks.instruments.link_ceiling import measure_ceiling, sweep_chunks
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
