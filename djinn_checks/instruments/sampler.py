"""The sampler process: reads PCIe counters about once per millisecond and writes down what it read.

    python -m djinn_checks.instruments.sampler OUTPUT --uuid GPU-... --hz 1000 --source auto

It is a process of its own, so that neither the interpreter lock nor a crash of the process that is being
watched can stop it. The first line of its output is a JSON header with the source; binary records follow,
appended one by one: t_before_s, t_after_s (CLOCK_MONOTONIC, seconds around the query), received, sent.
Once a second the health of the link is read between readings, one query between two of them, and appended to
OUTPUT.health as a line of JSON (`link_health.py`). Where kernels read host memory in place a query takes up to 23 ms
in place of 0.3 (H200); several in a row would leave a gap in which the counters can wrap.
Every record is handed to the kernel at once, so whatever kills this process, what it sampled is there.
It ends on SIGTERM, and by itself when its parent is gone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

RECORD = struct.Struct("<ddqq")
SOURCES = ("field", "gpm", "throughput")
SHORTEST_PERIOD_S = {"gpm": 0.2}
"""GPM's own samples are about 100 ms apart: a look sooner sees the same one, and a rate of 0 (seen on an H200)."""
HEALTH_PERIOD_S = 1.0
Reader = Callable[[], tuple[int, int]]
HealthStep = Callable[[], dict[str, int | None]]
"""One query of the link's health, and what it found."""


def main() -> int:
    """Sample until told to stop; exit code 0, or 3 if no source can be read."""
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("--uuid")
    parser.add_argument("--hz", type=float, default=1000.0)
    parser.add_argument("--source", default="auto", help="auto, field, gpm, throughput, or module:function of a fake")
    parser.add_argument(
        "--health", default="auto", help="auto (of the GPU whose counters are read), or module:function"
    )
    options = parser.parse_args()
    parent = os.getppid()
    stopping: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.append(number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    with options.output.open("ab", buffering=0) as out, health_path(options.output).open("ab", buffering=0) as health:
        source, reader, reasons = open_source(options.source, options.uuid)
        out.write(json.dumps({"source": source, "reasons": reasons}).encode() + b"\n")
        if reader is None:
            return 3
        steps = open_health(options.health, options.source, options.uuid)
        waiting: list[HealthStep] = []
        found: dict[str, int | None] = {}
        period = max(1.0 / options.hz, SHORTEST_PERIOD_S.get(source or "", 0.0))
        due = health_due = time.monotonic()
        while not stopping and os.getppid() == parent:
            before = time.monotonic()
            received, sent = reader()
            out.write(RECORD.pack(before, time.monotonic(), received, sent))
            if steps and not waiting and before >= health_due:
                waiting, found = list(steps), {}
                health_due = max(health_due + HEALTH_PERIOD_S, before)
            if waiting:
                found |= waiting.pop(0)()
                if not waiting:
                    health.write(json.dumps({"t_s": time.monotonic(), **found}).encode() + b"\n")
            due = max(due + period, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
    return 0


def open_source(name: str, uuid: str | None) -> tuple[str | None, Reader | None, dict[str, str]]:
    """Return the first source that can be read, a function that reads it, and why the others cannot be.

    The function gives counters modulo 2^32 for `field`, and running sums of bytes for the sources that
    only know rates.
    """
    if ":" in name:
        module, _, function = name.partition(":")
        return name, getattr(importlib.import_module(module), function)(), {}
    from djinn_checks.errors import InstrumentError

    reasons = {}
    for candidate in SOURCES if name == "auto" else (name,):
        try:
            reader = _open(candidate, uuid)
            reader()
        except InstrumentError as error:
            reasons[candidate] = str(error)
            continue
        return candidate, reader, reasons
    return None, None, reasons


def health_path(output: Path) -> Path:
    """Return where the health goes that belongs to an output."""
    return output.with_name(f"{output.name}.health")


def open_health(name: str, source: str, uuid: str | None) -> list[HealthStep]:
    """Return the queries that read the link's health; none beside a fake of counters, where there is none to read."""
    if ":" in name:
        module, _, function = name.partition(":")
        return [getattr(importlib.import_module(module), function)()]
    if ":" in source:
        return []
    from djinn_checks.instruments import nvml

    handle = nvml.find_handle(uuid)
    return [*nvml.list_health_queries(handle), lambda: {"pins": count_pins()}]


def count_pins() -> int | None:
    """Return how many pages the kernel has pinned for devices since it started; None if it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("nr_foll_pin_acquired ")), None)


def _open(source: str, uuid: str | None) -> Reader:
    from djinn_checks.instruments import nvml

    nvml.initialize()  # shut down by the end of this process
    handle = nvml.find_handle(uuid)
    if source == "field":
        return lambda: nvml.read_field_counters(handle)
    rates = nvml.GpmRates(handle).read if source == "gpm" else lambda: nvml.read_throughput(handle)
    return _integrate(rates)


def _integrate(rates: Callable[[], tuple[float, float]]) -> Reader:
    """Turn mean rates since the last look into running sums of bytes."""
    last, sums = time.monotonic(), [0.0, 0.0]

    def read() -> tuple[int, int]:
        nonlocal last
        received, sent = rates()
        now = time.monotonic()
        sums[0] += received * (now - last)
        sums[1] += sent * (now - last)
        last = now
        return int(sums[0]), int(sums[1])

    return read


if __name__ == "__main__":
    sys.exit(main())
