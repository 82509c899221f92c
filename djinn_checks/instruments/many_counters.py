"""The counters of many links, read by one process: one look at each in turn, about so many times a second.

    python -m djinn_checks.instruments.many_counters FOLDER --hz 500 SOURCE...

Why one. Readings of all links then share a clock and a load, and a process that pins keeps all of them waiting alike,
which is seen in all. A query takes 0.3 ms (H200), so eight links are read 400 times a second: 2.5 ms apart, where half
a wrap of a PCIe 5.0 link takes 36.

A SOURCE is the UUID of a GPU, or `board:FILE` of a link that stands in for one (`board.py`). For the n-th the process
writes FOLDER/n and FOLDER/n.health, as `sampler.py` writes its own. It ends on SIGTERM, and when its parent is gone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments import board
from djinn_checks.instruments.counters import RATE_SOURCES, CounterSeries, build_series
from djinn_checks.instruments.link_health import LinkHealth, parse_health
from djinn_checks.instruments.sampler import (
    RECORD,
    HealthStep,
    Reader,
    health_path,
    open_health,
    open_source,
)
from djinn_checks.processes import module_command

_START_S = 30.0
_BOARD = "board:"
_DTYPE = np.dtype([("before", "<f8"), ("after", "<f8"), ("rx", "<i8"), ("tx", "<i8")])


def name_board(file: Path) -> str:
    """Return the source that a board is."""
    return f"{_BOARD}{file}"


@dataclass
class _Looked:
    """One link, as the process sees it."""

    source: str | None
    reader: Reader | None
    steps: list[HealthStep]
    reasons: dict[str, str]
    out: Any
    health: Any
    health_s: float
    waiting: list[HealthStep] = field(default_factory=list)
    found: dict[str, int | None] = field(default_factory=dict)
    health_due: float = 0.0

    def look(self) -> None:
        """Read the counters, and one figure of the link's health if that is due."""
        if self.reader is None:
            return
        before = time.monotonic()
        received, sent = self.reader()
        self.out.write(RECORD.pack(before, time.monotonic(), received, sent))
        if self.steps and not self.waiting and before >= self.health_due:
            self.waiting, self.found = list(self.steps), {}
            self.health_due = before + self.health_s
        if self.waiting:
            self.found |= self.waiting.pop(0)()
            if not self.waiting:
                self.health.write(json.dumps({"t_s": time.monotonic(), **self.found}).encode() + b"\n")


def main() -> int:
    """Sample until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hz", type=float, default=500.0)
    parser.add_argument("--counters", default="auto")
    parser.add_argument("--health-s", type=float, default=0.5)
    parser.add_argument("sources", nargs="+")
    options = parser.parse_args()
    parent, stopping = os.getppid(), []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    links = [_open(options.folder / str(number), name, options) for number, name in enumerate(options.sources)]
    period = 1.0 / options.hz
    due = time.monotonic()
    while not stopping and os.getppid() == parent:
        for link in links:
            link.look()
        due = max(due + period, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    return 0


def _open(output: Path, name: str, options: argparse.Namespace) -> _Looked:
    out, health = output.open("ab", buffering=0), health_path(output).open("ab", buffering=0)
    if name.startswith(_BOARD):
        file = Path(name.removeprefix(_BOARD))
        source, reasons = "board", dict[str, str]()
        reader: Reader | None = board.open_counters(file)
        steps: list[HealthStep] = [board.open_health(file)]
    else:
        found = open_source(options.counters, name)
        source, reader, reasons = found[0] or "", found[1], found[2]
        if source in RATE_SOURCES:  # each of its queries would keep all other links waiting
            reasons, reader = reasons | {source: "it gives rates, and too slowly to be read beside others"}, None
        steps = open_health("auto", options.counters, name) if reader else []
    out.write(json.dumps({"source": source if reader else None, "reasons": reasons}).encode() + b"\n")
    return _Looked(source, reader, steps, reasons, out, health, options.health_s)


class ManyCounters:
    """Samples the counters of many links in a process of its own, as a context manager."""

    def __init__(
        self, sources: Sequence[str], *, hz: float = 500.0, counters: str = "auto", health_s: float = 0.5
    ) -> None:
        """Prepare to sample.

        Args:
            sources: UUIDs of GPUs, or boards of links that stand in (`name_board`).
            hz: looks at each link per second.
            counters: auto or field.
            health_s: seconds between two looks at the health of a link.
        """
        self._sources = list(sources)
        self._options = ["--hz", str(hz), "--counters", counters, "--health-s", str(health_s)]
        self.reasons: list[str] = ["" for _ in sources]
        """Why a link's counters cannot be read; empty where they can."""

    def __enter__(self) -> Self:
        """Start the process and wait for a first reading of each link that has one.

        Raises:
            InstrumentError: it ended, or neither read nor said anything.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="djinn-checks-counters-")
        module = module_command("djinn_checks.instruments.many_counters")
        command = [*module, self._folder.name, *self._options, *self._sources]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def await_readings(self, for_s: float) -> None:
        """Wait until each link that can be read was read anew, a look that was asked for after this call included.

        Args:
            for_s: seconds to wait at most; a link that is not read in that time is not waited for.
        """
        waiting = {number: self._count(number) for number, reason in enumerate(self.reasons) if not reason}
        deadline = time.monotonic() + for_s
        while waiting and self.alive and time.monotonic() < deadline:
            time.sleep(0.002)
            # the first to come may have been under way
            waiting = {number: had for number, had in waiting.items() if self._count(number) < had + 2}

    def _count(self, number: int) -> int:
        return (Path(self._folder.name) / str(number)).stat().st_size // RECORD.size

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            files = [self._read_file(number) for number in range(len(self._sources))]
            if all(head is not None and (head["source"] is None or records) for head, records in files):
                heads = [head for head, _ in files if head is not None]
                self.reasons = ["" if head["source"] else _join(head["reasons"]) for head in heads]
                return
            if self._process.poll() is not None:
                said = self._process.stderr.read().decode(errors="replace") if self._process.stderr else ""
                raise InstrumentError(f"counter sampler: ended with code {self._process.returncode}: {said[-500:]}")
            time.sleep(0.01)
        raise InstrumentError(f"counter sampler: no reading of every link within {_START_S:.0f} s")

    def _read_file(self, number: int) -> tuple[dict[str, Any] | None, bytes]:
        path = Path(self._folder.name) / str(number)
        data = path.read_bytes() if path.exists() else b""
        head, newline, records = data.partition(b"\n")
        return (json.loads(head) if newline else None), records

    def read(self) -> list[CounterSeries | None]:
        """Return everything sampled so far of each link; None of one that cannot be read."""
        return [self._read_one(number) for number in range(len(self._sources))]

    def _read_one(self, number: int) -> CounterSeries | None:
        head, records = self._read_file(number)
        if head is None or head["source"] is None:
            return None
        whole = np.frombuffer(records[: len(records) // RECORD.size * RECORD.size], dtype=_DTYPE)
        before, after, rx, tx = (np.ascontiguousarray(whole[name]) for name in _DTYPE.names or ())
        wraps = head["source"] not in RATE_SOURCES
        return build_series(before, after, rx, tx, source=head["source"], wraps=wraps)

    def read_health(self) -> list[LinkHealth | None]:
        """Return the health of each link, about twice a second; None where nothing tells it."""
        paths = (health_path(Path(self._folder.name) / str(number)) for number in range(len(self._sources)))
        return [found if (found := parse_health(path)).samples else None for path in paths]

    @property
    def alive(self) -> bool:
        """Whether the process is still sampling."""
        return self._process.poll() is None

    def __exit__(self, *exc: object) -> None:
        """End the process; read before."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr:
            self._process.stderr.close()
        self._folder.cleanup()


def _join(reasons: dict[str, str]) -> str:
    return "; ".join(f"{source}: {reason}" for source, reason in reasons.items()) or "no source of counters"


if __name__ == "__main__":
    sys.exit(main())
