"""Figures and tables are made of the outcome, whatever stands in a notebook, and nothing in a notebook is run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from djinn_checks.report.notebook.cells import redraw
from djinn_checks.report.notebook.clean import clean_html
from djinn_checks.report.notebook.export import render_html
from djinn_checks.suite.execution import find_notebook
from djinn_checks.suite.folder import render_report
from tests.report import samples

PUBLISHED = Path(__file__).parents[3] / "reports" / "h200-2026-11-27"
ATTACK = "<script>alert(1)</script><style>p{}</style><img src=https://example.org/x onerror=alert(2)>"


def code_cell(source: str) -> dict[str, Any]:
    return {"cell_type": "code", "source": source, "outputs": []}


@pytest.mark.parametrize("check", ["logits", "pcie", "agents", "faults"])
def test_every_figure_and_table_of_a_notebook_is_known_by_its_call(check: str) -> None:
    notebook = nbformat.read(find_notebook(check), as_version=4)
    shown = [cell for cell in notebook.cells if cell.source.startswith(("show_figure", "tabulate", "render_"))]
    assert shown
    nothing = samples.passed(check=check, measurements={}, timings={}, criteria=())
    assert all(redraw(cell, nothing) is not None for cell in shown)


def test_a_published_notebook_is_drawn_though_the_modules_that_it_imports_from_have_moved() -> None:
    notebook = nbformat.read(PUBLISHED / "pcie-ring.ipynb", as_version=4)
    page = render_html(notebook)
    assert page.count("<figure>") == 3
    for caption in (
        "Bytes received", "Time a pass, and the link's limit", "What the link can carry", "Preflight",
        "Parameters, as resolved", "Machine and software", "Samples",
    ):  # fmt: skip
        assert page.count(f"<caption><div>{caption}<") == 1
    assert "could not be made" not in page
    notebook = nbformat.read(PUBLISHED / "pcie-ring.ipynb", as_version=4)
    imports = next(cell for cell in notebook.cells if "import plot_" in cell.source)
    imports.source = "from djinn_checks.a_module_of_long_ago import plot_flatline"
    assert drawn(render_html(notebook)) == drawn(page)


def drawn(page: str) -> list[str]:
    """Return the figures and tables of a page, in order."""
    return re.findall(r"<figure>.*?</figure>|<table.*?</table>", page, re.DOTALL)


def test_a_page_shows_the_outcome_and_not_what_a_notebook_says_of_it() -> None:
    notebook = samples.executed_notebook(samples.passed())
    notebook.cells.append(samples.html_cell("tabulate_prompts(outcome)", "<p>forged</p>"))
    page = render_html(notebook, samples.failed())
    assert "forged" not in page
    assert page.count("<caption><div>Prompts") == 2


def test_without_its_notebook_a_report_has_the_same_figures_and_tables(tmp_path: Path) -> None:
    outcome = samples.failed()
    nbformat.write(samples.executed_notebook(outcome), tmp_path / "logits.ipynb")
    whole = render_report(tmp_path / "logits.ipynb", outcome)
    alone = render_report(tmp_path / "none.ipynb", outcome)
    for begin, end in (("<figure>", "</figure>"), ("<table", "</table>")):
        parts = [begin + part.partition(end)[0] for part in whole.split(begin)[1:]]
        assert parts
        assert all(part in alone for part in parts)


def test_a_run_that_stopped_without_a_notebook_shows_its_verdict_alone(tmp_path: Path) -> None:
    page = render_report(None, samples.crashed())
    assert "<strong>ERROR</strong>" in page
    assert "<h1" not in page


def test_what_a_stopped_run_did_not_reach_is_folded_into_one() -> None:
    notebook = samples.executed_notebook(samples.passed())
    for cell in notebook.cells[5:]:
        if cell.cell_type == "code":
            cell.outputs = []
    page = render_html(notebook, samples.crashed())
    assert page.count("Code that was not run") == 1
    assert "plot_margins" in page
    assert "<h2" not in page.partition("Code that was not run")[2]


@pytest.mark.parametrize(
    "source",
    [
        "open('x')",
        "tabulate_prompts(load_outcome('x'))",
        "tabulate_prompts(outcome, open('x'))",
        "show_figure(*plot_kl(outcome), alt=1)",
        "show_figure(*system('x'))",
        "tabulate_prompts(outcome); tabulate_bytes(outcome)",
        "outcome",
        "%matplotlib inline",
        "",
    ],
)
def test_a_cell_that_is_no_plain_call_is_left_alone(source: str) -> None:
    assert redraw(code_cell(source), samples.passed()) is None


@pytest.mark.parametrize("name", ["tabulate_x", "show", "eval", "find_drawing", "show_figure", "plot_kl"])
def test_a_name_that_is_no_table_of_the_packages_own_is_not_called(name: str) -> None:
    assert redraw(code_cell(f"{name}(outcome)"), samples.passed()) is None


def test_a_figure_that_cannot_be_made_of_an_outcome_is_said_in_its_place() -> None:
    broken = samples.passed(measurements={"prompts": [{"<b>": 1}]})
    made = redraw(code_cell("tabulate_prompts(outcome)"), broken)
    assert made is not None
    assert "tabulate_prompts could not be made of this outcome: KeyError" in made


def test_what_a_readers_own_cell_shows_keeps_its_table_and_loses_its_scripts() -> None:
    pandas = f'<div><style scoped>td {{}}</style><table class="dataframe"><tr><td>7</td></tr></table></div>{ATTACK}'
    new = nbformat.v4
    outputs = [
        new.new_output("display_data", {"text/html": pandas}),
        new.new_output("display_data", {"text/markdown": f"**bold** {ATTACK}"}),
    ]
    notebook = new.new_notebook(cells=[new.new_code_cell("frame", outputs=outputs), new.new_markdown_cell(ATTACK)])
    body = render_html(notebook).partition("<body")[2]
    assert '<table class="dataframe"><tbody><tr><td>7</td></tr></tbody></table>' in body.replace("\n", "")
    assert "<strong>bold</strong>" in body
    for wrong in ("<script", "<style", "alert(1)", "onerror", "example.org", "td {}"):
        assert wrong not in body


@pytest.mark.parametrize(
    ("markup", "clean"),
    [
        ('<a href="javascript:x">y</a>', "<a>y</a>"),
        ('<a href="data:text/html,x">y</a>', "<a>y</a>"),
        ('<img src="data:image/png;base64,AA" alt="a">', '<img src="data:image/png;base64,AA" alt="a">'),
        ('<p style="background:url(x)">y</p>', "<p>y</p>"),
        ("<scr<script></script>ipt>alert(1)</script>", "alert(1)"),
        ("<form action=x><input></form>", ""),
        ("<svg><script>x</script></svg>", ""),
    ],
)
def test_markup_from_outside_loads_and_runs_nothing(markup: str, clean: str) -> None:
    assert clean_html(markup) == clean
