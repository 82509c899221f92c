"""On a real link a copy takes as long by the counters as by the device's own events."""

from __future__ import annotations

import time

import pytest
import torch

from djinn_checks.checks.agents.link import LinkWitness

pytestmark = pytest.mark.gpu
NBYTES = 2**30


@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_copy_takes_as_long_as_its_events_say(direction: str) -> None:
    device = torch.device("cuda", 0)
    host = torch.empty(NBYTES, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(NBYTES, dtype=torch.uint8, device=device)
    source, to = (host, there) if direction == "in" else (there, host)
    copies = []
    with LinkWitness(device) as witness:
        for _ in range(5):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            time.sleep(0.1)
            start_s = time.monotonic()
            before.record()
            to.copy_(source, non_blocking=True)
            after.record()
            after.synchronize()
            time.sleep(0.05)
            copies.append((start_s, time.monotonic(), before.elapsed_time(after) / 1e3))
        time.sleep(0.1)
        evidence = witness.evidence()
    for start_s, end_s, seconds in copies:
        found = evidence.time_move(direction, NBYTES, start_s, end_s)
        assert found is not None
        assert found.least_s <= 1.01 * seconds
        assert found.greatest_s >= 0.98 * seconds
        assert found.greatest_s - found.least_s <= 0.1 * seconds
