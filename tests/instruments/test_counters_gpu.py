"""On a GPU: the counters count a known copy, miss nothing at 1 kHz, and cost the link nothing."""

from __future__ import annotations

import statistics
import time

import pytest
import torch

from djinn_checks.instruments.counters import CounterSampler
from djinn_checks.instruments.environment import find_uuid
from djinn_checks.instruments.link_ceiling import calibrate
from djinn_checks.units import MIB

pytestmark = pytest.mark.gpu

BLOCK = 256 * MIB


def cuda() -> torch.device:
    return torch.device("cuda", 0)


class Copies:
    """Back-to-back copies from pinned memory, for about so many seconds."""

    def __init__(self) -> None:
        self.source = torch.empty(BLOCK, dtype=torch.uint8, pin_memory=True)
        self.to = torch.empty(BLOCK, dtype=torch.uint8, device=cuda())

    def run(self, seconds: float) -> tuple[float, float, int]:
        """Return start, end (CLOCK_MONOTONIC) and the bytes copied."""
        torch.cuda.synchronize()
        start, copied = time.monotonic(), 0
        while time.monotonic() - start < seconds:
            for _ in range(20):
                self.to.copy_(self.source, non_blocking=True)
            torch.cuda.synchronize()
            copied += 20 * BLOCK
        return start, time.monotonic(), copied


def test_counted_payload_is_within_a_third_of_a_percent_of_a_known_copy() -> None:
    copies = Copies()
    with CounterSampler(find_uuid(cuda())) as sampler:
        found = calibrate(sampler, cuda())
        errors = []
        for _ in range(5):
            time.sleep(0.05)
            start, end, copied = copies.run(1.0)
            time.sleep(0.05)
            series = sampler.read()
            assert series is not None
            wire = series.bytes_between(start - 0.02, end + 0.02)
            assert wire is not None
            errors.append((wire - found.idle_bytes_per_s * (end - start)) / found.wire_per_payload / copied - 1)
    print(
        f"\nratio {found.wire_per_payload:.5f}, residual {found.residual:.5f}, idle {found.idle_bytes_per_s:,.0f} B/s"
    )
    print("errors of five known copies:", [f"{error:+.5f}" for error in errors])
    assert max(abs(error) for error in errors) <= 0.003


def test_a_sampler_at_1_khz_has_no_hole_in_30_s_and_costs_no_throughput() -> None:
    copies = Copies()
    copies.run(1.0)
    with CounterSampler(find_uuid(cuda())) as sampler:
        start, end, _ = copies.run(30.0)
        time.sleep(0.05)
        series = sampler.read()
    assert series is not None
    print(f"\nlongest gap {series.longest_gap_s(start, end)}, query {series.query_s:.6f} s, {len(series.t_s)} readings")
    assert series.holes == ()

    rates: dict[bool, list[float]] = {False: [], True: []}
    for sampled in (False, True, True, False) * 3:
        with CounterSampler(find_uuid(cuda())) if sampled else Idle():
            begin, finish, copied = copies.run(1.0)
        rates[sampled].append(copied / (finish - begin))
    plain, watched = statistics.median(rates[False]), statistics.median(rates[True])
    print(f"GB/s without {plain / 1e9:.3f}, with {watched / 1e9:.3f}, ratio {watched / plain:.5f}")
    assert watched / plain >= 0.998


class Idle:
    """No sampler."""

    def __enter__(self) -> None:
        time.sleep(0.3)

    def __exit__(self, *exc: object) -> None: ...


@pytest.mark.parametrize(("source", "hz", "tolerance"), [("gpm", 1000.0, 0.1), ("throughput", 1000.0, 0.1)])
def test_the_coarser_sources_agree_with_a_known_copy(source: str, hz: float, tolerance: float) -> None:
    copies = Copies()
    with CounterSampler(find_uuid(cuda()), hz=hz, source=source) as sampler:
        assert sampler.source == source, sampler.reasons
        time.sleep(0.5)
        start, end, copied = copies.run(3.0)
        time.sleep(0.5)
        series = sampler.read()
    assert series is not None
    wire = series.bytes_between(start, end)
    assert wire is not None
    gap = series.longest_gap_s(start, end)
    print(
        f"\n{source}: wire / payload {wire / copied:.4f}, {len(series.t_s)} readings, gap {gap}, query {series.query_s}"
    )
    assert wire / copied == pytest.approx(1.0785, rel=tolerance)
