"""What the kernel says of this process's memory (`/proc/self/maps`): what is mapped, and what is a file's.

The memory of a file outlives its mapping, also that of a file which lies in memory (memfd, /dev/shm): to map it again
moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_ANONYMOUS = "/dev/zero"
"""The kernel's name of shared memory without a file, which is gone when nobody maps it."""


def is_mapped(address: int) -> bool:
    """Tell whether this process has memory at an address; True where the kernel does not say."""
    lines = _read()
    return lines is None or any(True for _ in _at(address, lines))


def find_file(address: int) -> tuple[str, int] | None:
    """Return which file's memory lies at an address, and how far from its start; None if it is no file's."""
    for fields, start in _at(address, _read() or []):
        _, _, offset, device, inode, *path = fields
        if inode != "0" and not (path and path[0].startswith(_ANONYMOUS)):
            return f"file {device} {inode}", int(offset, 16) + address - start
    return None


def _read() -> list[str] | None:
    try:
        return Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None


def _at(address: int, lines: list[str]) -> Iterator[tuple[list[str], int]]:
    """Give the fields of the mapping at an address, and where it starts; nothing if there is none."""
    for line in lines:
        fields = line.split(None, 5)
        start, end = (int(edge, 16) for edge in fields[0].split("-"))
        if start <= address < end:
            yield fields, start
