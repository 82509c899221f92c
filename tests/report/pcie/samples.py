"""Outcomes of the PCIe check for the report's tests: recorded traces replayed, and a run with everything in it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from djinn_checks.outcome import Outcome
from djinn_checks.report.pcie.plots import plot_distribution, plot_flatline, plot_sweep, plot_zoom
from djinn_checks.report.pcie.stream_tables import tabulate_health, tabulate_stream
from djinn_checks.report.pcie.tables import (
    tabulate_ceilings,
    tabulate_limit,
    tabulate_preflight,
    tabulate_traffic,
)

TRACES = Path(__file__).parents[2] / "data" / "traces"
PLOTS = (plot_flatline, plot_zoom, plot_distribution, plot_sweep)
TABLES = (
    tabulate_ceilings, tabulate_health, tabulate_limit, tabulate_preflight, tabulate_stream, tabulate_traffic
)  # fmt: skip


@cache
def replayed(name: str) -> Outcome:
    from djinn_checks import PcieParams, check_pcie

    outcome: Outcome = check_pcie(PcieParams.create(device="cpu", trace=str(TRACES / f"{name}.csv.gz")))
    return Outcome.from_dict(json.loads(json.dumps(outcome.to_dict())))


def changed(name: str, **measurements: Any) -> Outcome:
    found = replayed(name)
    return replace(found, measurements={**found.measurements, **measurements})


def ran() -> Outcome:
    """A run with everything: passes, timeline, sweep, ceilings."""
    base = replayed("ring").measurements
    row = {"layer": "model.layers.0", "bytes": 10**8, "copy_start_s": 9.7, "copy_end_s": 9.8}
    timeline = [row | {"compute_start_s": 9.8, "compute_end_s": 9.81}] * 4
    copies = {"kind": "pcie", "spread": 0.01, "verified": True, "samples_s": [0.01] * 3, "direction": "h2d"}
    sweep = [
        copies | {"pinned": pinned, "nbytes": 2**20 * size, "bytes_per_s": rate}
        for pinned, rate in ((True, 55e9), (False, 9e9))
        for size in (1, 16, 512)
    ]
    return changed(
        "ring",
        zoom=base["zoom"] | {"timeline": timeline, "pass_ends_s": [9.9]},
        link=base["link"] | {"sweep": sweep, "ceilings": sweep[:1], "ceiling_after": sweep[2], "subject": "pcie"},
        passes={"count": 43, "mean_s": 0.2336, "median_s": 0.2336, "min_s": 0.2335, "p99_s": 0.2339, "open_s": 4.0},
        health={
            "seconds": [{"t_s": float(t), "generation": 5 if t < 7 else 3, "width": 16, "slowed_by": ["power cap"]}
                        for t in range(10)],
            "differences": {"replays": 3, "lane_errors": None},
            "most_replays": 20,
        },
        floor={"weight_bytes": 10**10, "least_bytes": 6.54e9, "error_bytes": 3e6,
               "share_of_field": {"sign": 0.0625, "exponent": 0.16, "mantissa": 0.436}},
        limit={"needed_bytes": 12.9e9, "seconds": 0.2334, "ratio": 0.999, "streamed_of_ceiling": 1.0},
        bytes={"passes": 43, "predicted": 557e9, "claimed": 558e9, "counted": 557e9, "wire": 600e9,
               "witnessed_a_pass": None},
        preflight=[{"name": "GPU", "found": "<GPU>", "wanted": "any", "ok": False, "remedy": "buy one"}],
    )  # fmt: skip


def encoded() -> Outcome:
    """The same run of a system whose weights travel encoded: decodes in its timeline, weights faster than the link."""
    base = ran().measurements
    rows = []
    for number in range(8):
        start = 9.6 + 0.005 * number
        rows.append(
            {"layer": f"model.layers.{number}", "bytes": 267_000_000, "weight_bytes": 404_000_000,
             "copy_start_s": start, "copy_end_s": start + 0.0048, "decode_start_s": start + 0.0048,
             "decode_end_s": start + 0.0053, "compute_start_s": start + 0.0053, "compute_end_s": start + 0.0055}
        )  # fmt: skip
    figures = {
        "wire_of_ceiling": 0.999,
        "claimed_of_counted": 1.0,
        "weights_of_ceiling": 1.45,
        "counted_of_least": 1.01,
    }
    measurements = {**base, "figures": figures, "zoom": base["zoom"] | {"timeline": rows, "pass_ends_s": [9.64]}}
    return replace(ran(), measurements=measurements)
