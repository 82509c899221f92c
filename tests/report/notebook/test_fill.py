"""Figures that a suite's kernel left to its runner are put where it left them, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from djinn_checks.report.left import LEFT
from djinn_checks.report.notebook.fill import fill_figures
from djinn_checks.report.progress import SCRATCH
from djinn_checks.report.verdict import render_figure

FIGURE = render_figure(None, 'a < b, "so"')


def notebook(source: str, text: Any) -> dict[str, Any]:
    data = {"text/plain": text, "text/html": "<p>as it was</p>"}
    return {"cells": [{"cell_type": "code", "source": source, "outputs": [{"data": data}, {"name": "stdout"}]}]}


@pytest.mark.parametrize("text", [LEFT, [LEFT[:9], LEFT[9:]]])
@pytest.mark.parametrize(
    "source", ["show_figure(*plot_matrix(outcome, 'pcie'))", ["show_figure(*plot_matrix(outcome, 'pcie'))"]]
)
def test_a_figure_that_was_left_is_there_with_its_words(source: Any, text: Any) -> None:
    told = notebook(source, text)
    assert fill_figures(told, {("plot_matrix", ("pcie",)): FIGURE})
    data = told["cells"][0]["outputs"][0]["data"]
    assert data == {"text/html": f'<div class="djinn-checks">{FIGURE}</div>', "text/plain": 'a < b, "so"'}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("show_figure(*plot_matrix(outcome, 'pcie'))", "a figure of the reader's own"),
        ("show_figure(*plot_matrix(outcome, 'logits'))", LEFT),
        ("print('plot_matrix')", LEFT),
    ],
)
def test_what_a_notebook_shows_by_itself_stays(source: str, text: str) -> None:
    told = notebook(source, text)
    assert not fill_figures(told, {("plot_matrix", ("pcie",)): FIGURE})
    assert told == notebook(source, text)


@pytest.mark.parametrize("in_suite", [True, False])
def test_the_kernel_of_a_suite_draws_nothing_and_loads_no_matplotlib(in_suite: bool) -> None:
    code = (
        "import sys; from djinn_checks import show; from djinn_checks.report import plot_kl\n"
        "from djinn_checks.report.drawings import TABLES, find_drawing; [find_drawing(name) for name in TABLES]\n"
        "print(plot_kl.__module__, 'matplotlib' in sys.modules)"
    )
    environment = {**os.environ, SCRATCH: "/tmp"} if in_suite else {k: v for k, v in os.environ.items() if k != SCRATCH}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == (
        ["djinn_checks.report.left", "False"] if in_suite else ["djinn_checks.report.logits.plots", "True"]
    )
