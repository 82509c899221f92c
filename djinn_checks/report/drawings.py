"""The figures and tables that an outcome can be drawn as, by name: what notebooks call, and what a page is made of.

A saved notebook names a drawing and nothing else. Where the function lives is said here alone, so files move without
a published notebook noticing, and a name from elsewhere leads nowhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

FIGURES = {
    "plot_counts": "faults.plots",
    "plot_crowd": "agents.plots",
    "plot_differences": "logits.plots",
    "plot_distribution": "pcie.plots",
    "plot_flatline": "pcie.plots",
    "plot_flatlines": "pcie.together",
    "plot_host_traffic": "host.plots",
    "plot_kl": "logits.plots",
    "plot_layers": "logits.plots",
    "plot_links": "host.plots",
    "plot_margins": "logits.plots",
    "plot_matrix": "faults.plots",
    "plot_sweep": "pcie.plots",
    "plot_timeline": "agents.plots",
    "plot_wakes": "agents.plots",
    "plot_zoom": "pcie.plots",
}
"""Functions that return a figure and its description, and the module of this room that holds each."""

FOR_PHONES = frozenset(
    {"plot_counts", "plot_differences", "plot_kl", "plot_layers", "plot_margins", "plot_matrix", "plot_zoom"}
)
"""Figures whose letters nobody can read on a phone, where a figure is as wide as the screen: a page has these in a
narrow form as well, which takes as long to draw."""

TABLES = {
    "render_environment": "tables",
    "render_params": "tables",
    "tabulate_accounts": "host.tables",
    "tabulate_bytes": "logits.tables",
    "tabulate_ceilings": "pcie.tables",
    "tabulate_expected": "host.tables",
    "tabulate_false_alarms": "faults.tables",
    "tabulate_faults": "faults.tables",
    "tabulate_floors": "faults.tables",
    "tabulate_frames": "frames",
    "tabulate_gain": "agents.tables",
    "tabulate_gpus": "pcie.gpu_table",
    "tabulate_health": "pcie.stream_tables",
    "tabulate_limit": "pcie.tables",
    "tabulate_link_rates": "host.tables",
    "tabulate_links": "host.tables",
    "tabulate_pairs": "host.tables",
    "tabulate_preflight": "pcie.tables",
    "tabulate_prompts": "logits.tables",
    "tabulate_proofs": "agents.tables",
    "tabulate_sleeps": "agents.tables",
    "tabulate_statistics": "logits.tables",
    "tabulate_stream": "pcie.stream_tables",
    "tabulate_traffic": "pcie.tables",
    "tabulate_twins": "agents.tables",
    "tabulate_witness": "logits.tables",
}
"""Functions that return a table as markup, and the module of this room that holds each."""

_HOMES = FIGURES | TABLES | {"show_figure": "verdict", "show_progress": "progress", "stop_on_error": "verdict"}


def names() -> list[str]:
    """Return the names that a notebook can import from `djinn_checks.report`."""
    return sorted(_HOMES)


def find_drawing(name: str) -> Callable[..., Any]:
    """Return the function of a name.

    Raises:
        KeyError: there is no drawing of that name.
    """
    function: Callable[..., Any] = getattr(importlib.import_module(f"djinn_checks.report.{_HOMES[name]}"), name)
    return function
