"""A table of the PCIe check, once for each GPU where several ran at once: each has measurements of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps

from djinn_checks.measurements.pcie import read
from djinn_checks.outcome import Outcome
from djinn_checks.report.tables import Html, fold

Tabulate = Callable[[Outcome], Html]


def by_gpu(tabulate: Tabulate) -> Tabulate:
    """Return a function that makes the same table; of several GPUs one each, folded under its name."""

    @wraps(tabulate)
    def tabulate_all(outcome: Outcome) -> Html:
        gpus = read(outcome.measurements).get("gpus") or []
        if not gpus:
            return tabulate(outcome)
        made = [(gpu["uuid"], tabulate(replace(outcome, measurements=gpu["measurements"]))) for gpu in gpus]
        return Html("".join(dict.fromkeys(fold(uuid, table) for uuid, table in made)))  # a sentence of all stands once

    return tabulate_all
