"""Readings of counters as files: gzipped CSV, one reading a line, for a replay on any machine."""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path

import numpy as np

from djinn_checks.bounded import read_gzip_text
from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.counters import WRAP, CounterSeries, build_series

_MOST_TRACE_BYTES = 2**29  # unpacked; two hours of readings at 1 kHz have less
_COLUMNS = ("t_before_s", "t_after_s", "nvml_timestamp_us", "rx_raw", "tx_raw")


def load_trace(path: str | os.PathLike[str], *, wraps: bool = True) -> CounterSeries:
    """Read a recorded trace (CSV, gzip): t_before_s, t_after_s, nvml_timestamp_us, rx_raw, tx_raw.

    Args:
        wraps: counters modulo 2^32, else the running sums of a source of rates.

    Raises:
        InstrumentError: the file is missing, or is no such trace, or holds what `build_series` refuses.
    """
    name = f"trace {Path(path).name}"
    try:
        rows = list(csv.reader(read_gzip_text(path, _MOST_TRACE_BYTES).splitlines()))
        if tuple(rows[0]) != _COLUMNS:
            raise InstrumentError(f"trace {path}: expected the columns {', '.join(_COLUMNS)}, got {', '.join(rows[0])}")
        if len(rows) < 2 or any(len(row) != len(_COLUMNS) for row in rows):
            short = next((number for number, row in enumerate(rows, 1) if len(row) != len(_COLUMNS)), None)
            got = f"line {short:,} with {len(rows[short - 1])}" if short else "none"
            raise InstrumentError(
                f"trace {path}: expected readings of {len(_COLUMNS)} columns, got {got}; copy it again"
            )
        table = np.array(rows[1:], dtype=object)
        times = table[:, :2].astype(np.float64)
        raw = table[:, 3:].astype(np.int64)
    except (OSError, ValueError, IndexError, EOFError, csv.Error) as error:
        raise InstrumentError(f"trace {path}: cannot be read as a gzipped CSV of counters ({error})") from error
    except OverflowError as error:
        raise InstrumentError(
            f"{name}: expected counters of 32 bit, rx_raw and tx_raw below {WRAP:,}, got a value that 64 bits with a "
            "sign do not hold; take the readings modulo 2^32 first"
        ) from error
    return build_series(times[:, 0], times[:, 1], raw[:, 0], raw[:, 1], source=name, wraps=wraps)


def save_trace(series: CounterSeries, path: str | os.PathLike[str]) -> None:
    """Write the raw readings of a series in the format that `load_trace` reads, without NVML's own timestamps."""
    raw = series.raw
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        rows = zip(raw.before_s, raw.after_s, raw.rx, raw.tx, strict=True)
        writer.writerows([f"{before:.6f}", f"{after:.6f}", "", rx, tx] for before, after, rx, tx in rows)
