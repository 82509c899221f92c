"""Whose memory a device pointer reads is what the driver says, not what the tensor says."""

from __future__ import annotations

import pytest
import torch

from djinn_checks.instruments.memory_place import find_place, find_place_beside

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
TYPE, MANAGED = 2, 8


@pytest.mark.parametrize(
    ("answers", "place"),
    [
        ({TYPE: 2, MANAGED: 0}, "device"),
        ({TYPE: 1, MANAGED: 0}, "host"),  # pinned, or registered
        ({TYPE: 2, MANAGED: 1}, "host"),  # managed, wherever its pages are
        ({TYPE: None, MANAGED: None}, "host"),  # pages of the host that the device reads without being told
    ],
)
def test_the_driver_tells_device_memory_from_the_hosts(answers: dict[int, int | None], place: str) -> None:
    assert find_place(CUDA, 1 << 40, lambda attribute, address: answers[attribute]) == place


def test_on_a_cpu_it_stands_in_for_the_device_and_beside_a_gpu_it_is_the_host() -> None:
    assert find_place(CPU, 1) == find_place_beside(CPU)(CPU, 1) == "device"
    assert find_place_beside(CUDA)(CPU, 1) == "host"


@pytest.mark.gpu
def test_a_device_pointer_to_pinned_memory_is_host_memory() -> None:
    pinned = torch.empty(1 << 20, pin_memory=True)
    torch.empty(1, device=CUDA)
    assert find_place(CUDA, pinned.data_ptr()) == "host"
    assert find_place(CUDA, torch.empty(1 << 20, device=CUDA).data_ptr()) == "device"
