"""Device memory beside the allocator is found, and laid at the door of those whose it is."""

from __future__ import annotations

import os
import subprocess
import sys

import torch

from djinn_checks.instruments.device_tenants import DeviceTenants, find_family

GB = 10**9


class Device:
    """A device with 80 GB, of which others had 2 before."""

    def __init__(self) -> None:
        self.used, self.reserved = 2 * GB, 0
        self.processes: dict[int, int] = {}

    def tenants(self, pid: int) -> DeviceTenants:
        return DeviceTenants(
            torch.device("cuda"),
            None,
            pid,
            in_use=lambda: self.used,
            reserved=lambda: self.reserved,
            of_processes=lambda: self.processes,
        )


def test_what_the_allocator_has_is_not_beside_it() -> None:
    device = Device()
    tenants = device.tenants(os.getpid())
    device.used, device.reserved = 10 * GB, 8 * GB
    tenants.look()
    assert (tenants.beside_bytes, tenants.ours_bytes) == (0, None)


def test_what_a_child_took_is_ours_and_what_a_stranger_took_is_not() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in find_family(os.getpid())
        device = Device()
        device.processes = {os.getpid(): GB}
        tenants = device.tenants(os.getpid())
        device.used += 20 * GB
        device.processes |= {child.pid: 13 * GB, 1: 7 * GB}
        tenants.look()
        assert (tenants.beside_bytes, tenants.ours_bytes) == (20 * GB, 13 * GB)
    finally:
        child.communicate(b"\n")


def test_the_most_that_was_seen_is_kept_and_a_list_without_this_process_says_nothing_of_whose_it_is() -> None:
    device = Device()
    tenants = device.tenants(os.getpid())
    for used in (3, 9, 4):
        device.used = used * GB
        tenants.look()
    assert (tenants.beside_bytes, tenants.ours_bytes) == (7 * GB, None)
