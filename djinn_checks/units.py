"""Units, in one place: sizes are decimal (1 GB = 10^9 bytes), as link and memory vendors count.

The paper's thresholds are in MB/s with 1 MB = 10^6 bytes; NVML counts bytes. Nothing in this package
means 2^20 or 2^30 unless its name ends in ``_mib`` or ``_gib``.
"""

from __future__ import annotations

KB = 10**3
MB = 10**6
GB = 10**9
MIB = 2**20
GIB = 2**30


def format_bytes(count: int | float | None) -> str:
    """Return ``count`` bytes as a short decimal text ("3.37 GB"); unknown is "unknown", never 0."""
    if count is None:
        return "unknown"
    for size, unit in ((GB, "GB"), (MB, "MB"), (KB, "kB")):
        if abs(count) >= size:
            return f"{count / size:.3g} {unit}" if abs(count) < 1000 * size else f"{count / size:,.0f} {unit}"
    return f"{count:.0f} B"


def format_seconds(seconds: float | None) -> str:
    """Return a duration in seconds as a short text ("95 s", "1.20 s", "340 ms")."""
    if seconds is None:
        return "unknown"
    if seconds >= 10:
        return f"{seconds:.0f} s"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def format_percent(share: float | None) -> str:
    """Return a share as a short text ("97.1%"); unknown is "unknown", never 0."""
    return "unknown" if share is None else f"{share:.1%}"


def format_count(number: int, what: str) -> str:
    """Return a number of things as text ("1 run", "3 runs", "2 series")."""
    return f"{number} {what}{'' if number == 1 or what.endswith('s') else 's'}"
