"""What a host says of itself before a job goes there: which djinn-checks it has, and which machine it is."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

from djinn_checks.suite.given import SYSTEMS
from djinn_checks.suite.machine import find_other_machine

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_KINDS = (".py", ".ipynb")
_REMEDY = "install the same on each host"


def describe_host() -> dict[str, Any]:
    """Return plain data, so that a host of another version can answer: version, digest of the code, Python, systems,
    machine and nice value.
    """
    return {
        "version": version("djinn-checks"),
        "code": digest_code(),
        "python": ".".join(map(str, sys.version_info[:2])),
        "systems": sorted({entry.name for entry in entry_points(group=SYSTEMS)}),
        "machine": _read_boot(),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "may_be_less_nice": os.geteuid() == 0 or os.getpriority(os.PRIO_PROCESS, 0) == 0,
    }


def find_difference(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """Return in a clause why a host cannot run what this one would; empty if it can.

    Args:
        here: of `describe_host`, in this process.
        there: the same from the host, whose version may have fewer names.
    """
    if there.get("version") != here["version"]:
        return f"it has djinn-checks {there.get('version')}, and here it is {here['version']}; {_REMEDY}"
    if there.get("code") != here["code"]:
        return f"its djinn-checks {here['version']} is of another commit than this one; {_REMEDY}"
    missing = sorted(set(here.get("systems_asked_for", ())) - set(there.get("systems", ())))
    if missing:
        return f"it has no system {', '.join(missing)}; install the package that registers it there, too"
    return ""


def find_known(environments: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Return for each outcome's environment whether this machine may be the one that it tells of."""
    return [not find_other_machine(environment) for environment in environments]


@cache
def digest_code() -> str:
    """Return the SHA-256 of this package's code and its notebooks: two commits have one version."""
    package = Path(__file__).resolve().parents[2]
    notebooks = next(
        place for place in (package.parent / "notebooks", package / "notebooks", package) if place.is_dir()
    )
    whole = hashlib.sha256()
    for folder in dict.fromkeys((package, notebooks)):
        for file in sorted(file for file in folder.rglob("*") if file.suffix in _KINDS and file.is_file()):
            name = file.relative_to(folder).as_posix()
            if not name.startswith(("notebooks/", ".")):  # where a wheel has them, which a checkout has not
                whole.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def _read_boot() -> str:
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return ""
