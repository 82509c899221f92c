"""Where a GPU hangs: its way through the PCI tree, switches and host bridge, by the kernel's own account.

Why it matters. Links below one switch share the switch's own link to the host, and cannot all be full at once; links on
roots of their own meet only in the host's memory. In a virtual machine the tree is often flat: then nothing is known of
what is shared, and nothing is concluded from it. What cannot be read is None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PCI_DEVICES = Path("/sys/bus/pci/devices")
_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")
_GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}
"""By the GT/s that the kernel writes."""
_ACS_CAPABILITY = 0x000D
_FIRST_EXTENDED = 0x100
_ACS_REDIRECTS = 0b1100
"""Bits of ACS control: peer requests and completions are sent up to the root in place of across the switch."""


@dataclass(frozen=True, kw_only=True)
class Port:
    """A device above a GPU: a port of a switch, or the root port."""

    address: str
    generation: int | None
    width: int | None
    """Of its link towards the host."""


@dataclass(frozen=True, kw_only=True)
class PciPath:
    """A GPU's way to the host, as the kernel knows it."""

    address: str
    ports: tuple[Port, ...]
    """From the GPU's own port up to the root; empty where the tree is flat, as in many virtual machines."""
    iommu_group: int | None
    acs_redirects: bool | None
    """Whether a port above has peers' traffic go through the root (ACS); None if its configuration cannot be read."""


def read_path(address: str, devices: Path = PCI_DEVICES) -> PciPath | None:
    """Return the way of a device to the host; None if the kernel does not know the device."""
    place = devices / address
    try:
        real = place.resolve(strict=True)
    except OSError:
        return None
    above = [part for part in real.parts if _ADDRESS.fullmatch(part) and part != address]
    ports = tuple(_read_port(devices / name, name) for name in reversed(above))
    redirects = [found for name in above if (found := _read_acs(devices / name)) is not None]
    return PciPath(
        address=address,
        ports=ports,
        iommu_group=_read_group(place),
        acs_redirects=any(redirects) if redirects else None,
    )


def find_shared_port(paths: list[PciPath]) -> Port | None:
    """Return the lowest port that all of these hang below, which their traffic to the host shares; None if none is."""
    if len(paths) < 2 or not all(path.ports for path in paths):
        return None
    common = set.intersection(*({port.address for port in path.ports} for path in paths))
    return next((port for port in paths[0].ports if port.address in common), None)


def _read_port(place: Path, address: str) -> Port:
    speed, width = _read(place / "current_link_speed"), _read(place / "current_link_width")
    number = re.match(r"[\d.]+", speed or "")
    return Port(
        address=address,
        generation=_GENERATIONS.get(float(number[0])) if number else None,
        width=int(width) if width and width.isdecimal() and int(width) else None,
    )


def _read_group(place: Path) -> int | None:
    try:
        name = (place / "iommu_group").resolve(strict=True).name
    except OSError:
        return None
    return int(name) if name.isdecimal() else None


def _read_acs(place: Path) -> bool | None:
    """Return whether a bridge redirects peers' requests; its extended configuration can be read by root alone."""
    try:
        config = (place / "config").read_bytes()
    except OSError:
        return None
    at = _FIRST_EXTENDED
    while at and at + 8 <= len(config):
        header = int.from_bytes(config[at : at + 4], "little")
        if header & 0xFFFF == _ACS_CAPABILITY:
            return bool(int.from_bytes(config[at + 6 : at + 8], "little") & _ACS_REDIRECTS)
        following = header >> 20
        at = following if following > at else 0
    return None


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def list_nodes(folder: Path = Path("/sys/devices/system/node")) -> list[int]:
    """Return the NUMA nodes that have memory; [0] where the kernel does not say."""
    found = sorted(
        int(place.name.removeprefix("node")) for place in folder.glob("node[0-9]*") if _has_memory(place / "meminfo")
    )
    return found or [0]


def _has_memory(file: Path) -> bool:
    total = re.search(r"MemTotal:\s+(\d+)", _read(file) or "")
    return total is None or int(total[1]) > 0


def cpus_of(node: int, folder: Path = Path("/sys/devices/system/node")) -> set[int]:
    """Return the processors of a node; none where the kernel does not say."""
    cpus: set[int] = set()
    for part in filter(None, (_read(folder / f"node{node}" / "cpulist") or "").split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus
