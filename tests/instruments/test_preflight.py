"""The preflight table says what is missing and what to do about it."""

from __future__ import annotations

from typing import Any

import psutil
import pytest

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments import nvml, preflight
from djinn_checks.instruments.gpus import Gpu, HostGpus
from djinn_checks.instruments.preflight import PreflightRow, look_around
from djinn_checks.instruments.preflight_all import look_at_all


def row(rows: list[PreflightRow], name: str) -> PreflightRow:
    return next(row for row in rows if row.name.startswith(name))


def test_without_a_driver_the_gpu_is_missing_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def initialize() -> None:
        raise InstrumentError("NVML: no NVIDIA driver answers")

    monkeypatch.setattr(nvml, "initialize", initialize)
    gpu = row(look_around(), "GPU")
    assert gpu.ok is False
    assert "host-memory link" in gpu.remedy


def test_more_memory_than_there_is_is_missing_and_enough_is_not() -> None:
    there = psutil.virtual_memory().total
    assert row(look_around(pinned_bytes=2 * there), "Free host memory").ok is False
    enough = row(look_around(pinned_bytes=1), "Free host memory")
    assert (enough.ok, enough.remedy) == (True, "")


@pytest.mark.parametrize(
    ("link", "ok"),
    [
        ({"generation": 1, "width": 16, "max_generation": 5, "max_width": 16}, True),
        ({"generation": 5, "width": 8, "max_generation": 5, "max_width": 16}, False),
        ({"generation": None, "width": 8, "max_generation": 5, "max_width": 16}, None),
    ],
)
def test_fewer_lanes_than_possible_are_missing_and_an_idle_generation_is_not(link: Any, ok: bool | None) -> None:
    assert preflight._link_row(link).ok is ok


def test_a_gpu_whose_memory_does_not_hold_the_budget_is_seen() -> None:
    assert preflight._ring_row((10**9, 2 * 10**9), 5 * 10**9).ok is False
    assert preflight._ring_row((10**9, 2 * 10**9), 5 * 10**8).ok is True
    assert preflight._ring_row(None, 5 * 10**8).ok is None


def test_every_gpu_has_its_bandwidth_measured_or_says_why_not() -> None:
    def gpu(uuid: str, **changed: str) -> Gpu:
        return Gpu(
            uuid=uuid, name="made", max_generation=5, max_width=16, numa_node=0, path=None, nvlinks=None, **changed
        )

    def measure(uuid: str) -> float:
        if uuid == "GPU-3":
            raise RuntimeError("CUDA error")
        return {"GPU-0": 55e9, "GPU-1": 12e9}[uuid]

    gpus = (gpu("GPU-0"), gpu("GPU-1"), gpu("GPU-2", in_use="process 7 computes on it"), gpu("GPU-3"))
    rows = look_at_all(found=HostGpus(gpus=gpus, pairs=()), measure=measure)
    found = {row.name[:5]: row for row in rows if "Pinned bandwidth" in row.name}
    assert [found[f"GPU-{number}"].ok for number in range(4)] == [True, False, None, False]
    assert found["GPU-0"].found == "55.0 GB/s"
    assert "process 7" in found["GPU-2"].found
    assert "CUDA error" in found["GPU-3"].found
    assert sum(row.name.startswith("Swap") for row in rows) == 1


def test_without_a_gpu_it_says_what_would_be_measured() -> None:
    (bandwidth,) = [row for row in look_at_all(found=HostGpus(gpus=(), pairs=())) if "Pinned" in row.name]
    assert bandwidth.ok is None
    assert "256 MiB" in bandwidth.found
