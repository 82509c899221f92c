"""Which machine an outcome is of, as far as outcomes say: they hold no name of a host.

A machine is known by its hardware: processor, threads, and GPU with its memory. Driver, kernel and packages are left
out, since they change on one machine, and what they change is to be seen. Two hosts that are built alike cannot be
told apart by that; where several are merged, a name that the user gives each of them stands in the names of the runs:
`logits@node-1` is the run `logits` of `node-1`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from djinn_checks.outcome import Outcome
from djinn_checks.units import format_bytes

_MARK, _END = "@", "."
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,40}")
_NOISE = re.compile(r"\((r|tm)\)|\b(nvidia|intel|amd|cpu|processor|core|gpu|geforce|@.*)\b", re.IGNORECASE)
_LONGEST_SLUG = 24
UNKNOWN = "unknown"
"""Stands for a machine that nothing is said of."""


class RunName(NamedTuple):
    """The parts of a run's name: `pcie-ring@node-1.20261127T144131`."""

    run: str
    """As its params file is called."""
    host: str
    """Empty where the name says nothing of it."""


def split_host(name: str) -> RunName:
    """Return the name of the params file and the host that the name of a run says it is of."""
    run, mark, rest = name.rpartition(_MARK)
    host = rest.partition(_END)[0]
    return RunName(run, host) if mark and run and is_label(host) else RunName(name, "")


def join_host(run: str, host: str, *marks: str) -> str:
    """Return the name of a run of a host; further marks tell several runs of one host apart."""
    return f"{run}{_MARK}{_END.join((host, *marks))}"


def is_label(text: str) -> bool:
    """Tell whether a host can be called so in the name of a run: at most 40 letters, digits, hyphens, underscores."""
    return _LABEL.fullmatch(text) is not None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine by its hardware; None is unknown."""

    cpu: str | None = None
    threads: int | None = None
    gpu: str | None = None
    gpu_memory_bytes: int | None = None

    @property
    def label(self) -> str:
        """A short name that the same hardware always gets: `h200-3fa2`; `unknown` where nothing is said."""
        named = self.gpu or self.cpu
        if named is None:
            return UNKNOWN
        slug = re.sub(r"[^a-z0-9]+", "-", _NOISE.sub(" ", named).lower()).strip("-")[:_LONGEST_SLUG].strip("-")
        facts = json.dumps([self.cpu, self.threads, self.gpu, self.gpu_memory_bytes])
        return f"{slug or 'machine'}-{hashlib.sha256(facts.encode()).hexdigest()[:4]}"

    def describe(self) -> str:
        """Return the hardware in words."""
        memory = f" ({format_bytes(self.gpu_memory_bytes)})" if self.gpu_memory_bytes else ""
        parts = [
            f"{self.gpu}{memory}" if self.gpu else "",
            self.cpu or "",
            f"{self.threads} threads" * bool(self.threads),
        ]
        return ", ".join(part for part in parts if part) or "nothing is known of it"


def find_machines(outcomes: Mapping[str, Outcome]) -> dict[str, Machine]:
    """Return the machine of each outcome of a folder.

    A check that ran on the CPU says nothing of the machine's GPU. It is of the machine with the same processor if there
    is one only; what says nothing of a processor, likewise.
    """
    said = {name: read_machine(outcome.environment) for name, outcome in outcomes.items()}
    known = list(dict.fromkeys(said.values()))
    return {name: _complete(machine, known) for name, machine in said.items()}


def read_machine(environment: Mapping[str, Any]) -> Machine:
    """Return the machine that the environment of an outcome tells of."""
    cpu, gpu = environment.get("cpu") or {}, environment.get("gpu") or {}
    return Machine(
        cpu=cpu.get("model"), threads=cpu.get("threads"), gpu=gpu.get("name"), gpu_memory_bytes=gpu.get("memory_bytes")
    )


def _complete(machine: Machine, known: list[Machine]) -> Machine:
    """Return the one machine that says all that this one does and more; itself where there is none, or several."""
    fuller = [other for other in known if other != machine and _says_no_less(other, machine)]
    most = [other for other in fuller if not any(_says_no_less(next_, other) for next_ in fuller if next_ != other)]
    return most[0] if len(most) == 1 else machine


def _says_no_less(other: Machine, machine: Machine) -> bool:
    pairs = (
        (machine.cpu, other.cpu),
        (machine.threads, other.threads),
        (machine.gpu, other.gpu),
        (machine.gpu_memory_bytes, other.gpu_memory_bytes),
    )
    return all(mine is None or mine == its for mine, its in pairs)


def name_hosts(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    """Return the host of each outcome of a folder: as the run's name says, else the label of its machine."""
    machines = find_machines(outcomes)
    return {name: split_host(name).host or machines[name].label for name in outcomes}
