"""Limits of the shell that a run was started from, which may be what it died of: named where a run has died.

No system and no kernel says by itself that it had too few files to open. So whatever is unusually tight is told
beside the death, as what may be its cause; what a machine has by default is not.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass

from djinn_checks.units import format_bytes


@dataclass(frozen=True, kw_only=True)
class _Limit:
    """One of setrlimit(2)."""

    kind: int
    option: str
    """Of `ulimit`."""
    what: str
    enough: float
    """From here on nobody dies of it; infinite where any limit may be what ends a run."""


_KB = 1024
_LIMITS = (
    _Limit(kind=resource.RLIMIT_NOFILE, option="-n", what="{:,} open files", enough=256),
    _Limit(kind=resource.RLIMIT_NPROC, option="-u", what="{:,} processes and threads of this user", enough=1024),
    _Limit(kind=resource.RLIMIT_AS, option="-v", what="{} of addresses", enough=float("inf")),
    _Limit(kind=resource.RLIMIT_DATA, option="-d", what="{} of data", enough=float("inf")),
    _Limit(kind=resource.RLIMIT_FSIZE, option="-f", what="{} in a file", enough=float("inf")),
    _Limit(kind=resource.RLIMIT_CPU, option="-t", what="{:,} s of a processor", enough=float("inf")),
    _Limit(kind=resource.RLIMIT_STACK, option="-s", what="{} of stack", enough=1024 * _KB),
)
_IN_BYTES = (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_STACK)


def describe_limits() -> str:
    """Return what of this process's limits is tight, as the end of a sentence; empty if nothing is."""
    tight = [_say(limit) for limit in _LIMITS]
    told = ", ".join(said for said in tight if said)
    return f"; this shell allows for no more than {told}, which may be why: raise it" if told else ""


def _say(limit: _Limit) -> str:
    soft, _ = resource.getrlimit(limit.kind)
    if soft == resource.RLIM_INFINITY or soft >= limit.enough:
        return ""
    return f"{limit.what.format(format_bytes(soft) if limit.kind in _IN_BYTES else soft)} (ulimit {limit.option})"


@contextlib.contextmanager
def owner_may() -> Iterator[None]:
    """Have what is made within the block be its owner's to read and to write, whatever the umask: a run that cannot
    read what it wrote cannot be. What others may do is left as it is.
    """
    before = os.umask(0o077)
    os.umask(before & 0o077)
    try:
        yield
    finally:
        os.umask(before)
