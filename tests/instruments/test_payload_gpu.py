"""On a GPU: the law of reads counts copies and kernels that read in place within a part in a thousand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from djinn_checks.instruments import nvml
from djinn_checks.instruments.counters import CounterSampler
from djinn_checks.instruments.environment import find_uuid
from djinn_checks.instruments.link_ceiling import calibrate
from djinn_checks.units import MIB

pytestmark = pytest.mark.gpu

SETTLE_S = 0.05
LEAST_BYTES = 4096 * MIB


class DeviceView:
    """Pinned host memory as the device sees it: with unified addressing at the same address."""

    def __init__(self, host: Tensor) -> None:
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": (host.numel(),),
            "typestr": "|u1",
            "data": (host.data_ptr(), False),
            "strides": None,
            "version": 3,
        }


def view(host: Tensor) -> Tensor:
    seen = torch.as_tensor(DeviceView(host), device="cuda:0")
    assert seen.data_ptr() == host.data_ptr(), "a copy would not be read in place"
    return seen


def timed(work: Callable[[], int]) -> tuple[float, float, int]:
    torch.cuda.synchronize()
    start = time.monotonic()
    time.sleep(SETTLE_S)
    moved = work()
    torch.cuda.synchronize()
    time.sleep(SETTLE_S)
    end = time.monotonic()
    time.sleep(SETTLE_S)
    return start, end, moved


def test_known_copies_and_kernels_of_three_strides_are_counted_right() -> None:
    device = torch.device("cuda", 0)
    host = torch.ones(1024 * MIB, dtype=torch.uint8, pin_memory=True)
    to = torch.empty(512 * MIB, dtype=torch.uint8, device=device)
    words = view(host).view(torch.int64)

    def copy(size: int) -> int:
        times = LEAST_BYTES // size
        for _ in range(times):
            to[:size].copy_(host[:size], non_blocking=True)
        return times * size

    def read_in_place(stride: int) -> int:
        """Add up every so manieth run of 512 bytes: each byte that is fetched is used."""
        runs = words.view(-1, 64 * stride)[:, :64]
        for _ in range(4 * stride):
            runs.sum()
        return 4 * stride * runs.numel() * 8

    for stride in (1, 2, 4):
        read_in_place(stride)  # loads the kernels
    with CounterSampler(find_uuid(device)) as sampler:
        found = calibrate(sampler, device)
        spans = {f"copies of {size} MiB": timed(lambda size=size: copy(size * MIB)) for size in (1, 16, 512)}  # type: ignore[misc]
        spans |= {
            f"in place, stride {stride}": timed(lambda stride=stride: read_in_place(stride)) for stride in (1, 2, 4)
        }  # type: ignore[misc]
        series = sampler.read()
        health = sampler.read_health()
    assert series is not None
    assert found.law_error is not None
    assert found.law_error <= 0.001
    series = series.over(70e9)
    counter = found.counter(series)
    errors = {}
    for name, (start, end, moved) in spans.items():
        counted, reader = counter.between(series, start, end), counter.reader(series, start, end)
        assert counted is not None, name
        assert reader is not None
        errors[name] = counted / moved - 1
        print(f"\n{name}: {moved / 1e9:.2f} GB, error {errors[name]:+.4%}, {reader.says}", end="")
        assert reader.in_place is name.startswith("in place")
    assert max(map(abs, errors.values())) <= 0.001
    assert health is not None
    assert health.samples[-1].width


def test_the_links_health_is_told_or_unknown() -> None:
    with nvml.open_nvml():
        queries = nvml.list_health_queries(nvml.find_handle(find_uuid(torch.device("cuda", 0))))
        found = {name: value for query in queries for name, value in query().items()}
    print(f"\n{found}")
    assert found["generation"] in range(1, 8)
    assert all(value is None or value >= 0 for value in found.values())
