"""A notebook in a real JupyterLab, in a real browser, as somebody sees it who opens it and runs all of it.

`make test-lab` installs JupyterLab; where it is missing, this is skipped. Pictures of what was seen lie in the folder
that DJINN_CHECKS_LAB_PICTURES names.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest

from tests.lab.jupyterlab import Lab, NotebookInLab
from tests.report.chromium import PATH, Browser

pytestmark = [
    pytest.mark.skipif(PATH is None, reason="needs Chromium (Debian: apt-get install chromium)"),
    pytest.mark.skipif(importlib.util.find_spec("jupyterlab") is None, reason="needs JupyterLab: make test-lab"),
]

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "logits.ipynb"
SMALL = {"model": "'random:tiny'", "device": "'cpu'", "prompts": "2"}
WIDTH = 1280


class Seen(NamedTuple):
    """What was there while the cells ran, and after."""

    bars: set[str]
    """The words of the progress bar."""
    page: NotebookInLab


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("notebooks")
    nbformat.write(_with_small_params(), folder / NOTEBOOK.name)
    pictures = Path(os.environ.get("DJINN_CHECKS_LAB_PICTURES") or tmp_path_factory.mktemp("pictures"))
    pictures.mkdir(parents=True, exist_ok=True)
    home, profile = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("profile")
    with Lab(folder, home) as lab, Browser(profile) as browser:
        page = NotebookInLab(lab, browser, NOTEBOOK.name, width=WIDTH)
        page.run_all()
        bars: set[str] = set()
        deadline = time.monotonic() + 240
        while not page.is_over():
            assert time.monotonic() < deadline, "the cells never came to an end"
            bars.update(page.evaluate(BARS))
            time.sleep(0.1)
        for number, top in enumerate(range(0, page.height(), 1800)):
            page.picture(pictures / f"logits-{number}.png", top=top, height=1900)
        yield Seen(bars | set(page.evaluate(BARS)), page)


def _with_small_params() -> Any:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    cell.source += "".join(f"\n{name} = {value}" for name, value in SMALL.items())
    return notebook


def test_every_cell_ran_and_the_verdict_is_there(seen: Seen) -> None:
    assert [output["ename"] for output in seen.page.outputs() if output["output_type"] == "error"] == []
    assert "PASS" in seen.page.evaluate("document.querySelector('.djinn-checks .banner').innerText")


def test_nothing_is_red(seen: Seen) -> None:
    streams = [output for output in seen.page.outputs() if output["output_type"] == "stream"]
    assert [output["text"] for output in streams if output["name"] == "stderr"] == []
    assert seen.page.evaluate("document.querySelectorAll('[data-mime-type*=\"stderr\"]').length") == 0
    assert "IProgress" not in seen.page.evaluate("document.body.innerText")


def test_a_bar_says_how_far_the_check_is_and_ends_with_it(seen: Seen) -> None:
    assert any(bar.startswith("reference, ") for bar in seen.bars)
    assert any(bar.startswith("pass 3 of 3") for bar in seen.bars)
    (last,) = seen.page.evaluate(BARS)
    assert last.startswith("finished (")
    assert seen.page.evaluate("document.querySelector('[role=progressbar]').getAttribute('aria-valuenow')") == "100"


def test_words_stand_at_the_left_of_their_cells_and_figures_at_the_right(seen: Seen) -> None:
    aligned = seen.page.evaluate(ALIGNED)
    assert aligned["plain"] == ["left"]
    assert aligned["criteria"] == ["left"]
    assert aligned["numeric"] == ["right"]


def test_every_parameter_stands_with_its_meaning_within_the_page(seen: Seen) -> None:
    table = seen.page.evaluate(PARAMETERS)
    assert set(SMALL) <= set(table["names"])
    assert all(table["meanings"])
    assert table["right"] <= WIDTH
    assert seen.page.evaluate(LONGEST_CODE) <= 0, "a line of code goes on beyond its cell"


def test_no_table_or_figure_is_wider_than_its_place(seen: Seen) -> None:
    assert seen.page.evaluate(TOO_WIDE) == []


BARS = """[...document.querySelectorAll('[role=progressbar]')].map(bar => bar.innerText.trim()).filter(text => text)"""
ALIGNED = """(() => {
  const sides = kind => [...new Set([...document.querySelectorAll(`.djinn-checks table.${kind} td`)].map(cell =>
    getComputedStyle(cell).textAlign.replace('start', 'left').replace('end', 'right')))];
  return {plain: sides('plain'), criteria: sides('criteria'), numeric: sides('numeric')};
})()"""
PARAMETERS = """(() => {
  const table = [...document.querySelectorAll('.djinn-checks table')].find(table =>
    table.caption.innerText.startsWith('Parameters of the logits check'));
  const rows = [...table.tBodies[0].rows];
  return {
    names: rows.map(row => row.cells[0].innerText.trim()),
    meanings: rows.map(row => row.cells[2].innerText.trim()),
    right: table.getBoundingClientRect().right,
  };
})()"""
LONGEST_CODE = """Math.max(...[...document.querySelectorAll('.jp-CodeCell .cm-scroller')].map(code =>
  code.scrollWidth - code.clientWidth))"""
TOO_WIDE = """[...document.querySelectorAll('.djinn-checks table, .djinn-checks img, .djinn-checks svg')].filter(part =>
  part.getBoundingClientRect().width > part.closest('.jp-OutputArea-output').getBoundingClientRect().width + 1)
  .map(part => part.tagName + ': ' + (part.caption?.innerText || part.alt || ''))"""
