"""No notebook brings markup of its own onto a page that could be taken for ours, or that hides ours."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import pytest
from jinja2 import nodes

from djinn_checks.report.notebook import preprocessor
from djinn_checks.report.notebook.clean import clean_html
from djinn_checks.report.notebook.export import render_html
from djinn_checks.report.style import TEMPLATE, TEMPLATE_FOLDER
from djinn_checks.report.tables import Html
from tests.report import samples
from tests.report.notebook.hostile import MARK, NOTEBOOKS, failed_notebook

ESCAPES = {"escape_html", "ansi2html", "highlight_code", "text_base64"}
"""Filters of nbconvert that leave no markup in what they are given."""


class Page(HTMLParser):
    """Collects the tags of a page, and which classes and ids they have."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.banners: list[str] = []
        self.ids: list[str] = []
        self.refreshes = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.banners += [found["class"] or ""] if "banner" in (found.get("class") or "").split() else []
        self.ids += [found["id"] or ""] if "id" in found else []
        self.refreshes += found.get("http-equiv") == "refresh"


@pytest.mark.parametrize("cells", NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_a_hostile_notebook_does_not_reach_the_page_raw(cells: list[Any]) -> None:
    page = Page(render_html(failed_notebook(cells)))
    assert MARK not in page.tags
    assert page.banners == ["banner fail"]
    assert page.tags.count("style") == 1
    assert page.refreshes == 0
    assert set(page.ids) <= {"papermill-error-cell"}
    assert page.tags.count("main") == page.tags.count("body") == 1


def test_without_the_cleaning_the_parser_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessor, "clean_html", lambda markup: markup)
    page = Page(render_html(failed_notebook(NOTEBOOKS["output with a banner"])))
    assert MARK in page.tags
    assert "banner pass" in page.banners


def test_there_are_twenty_and_their_markup_would_be_seen() -> None:
    assert len(NOTEBOOKS) == 20
    seen = Page("".join(str(cell) for cells in NOTEBOOKS.values() for cell in cells))
    assert MARK in seen.tags


def _writes(template: str) -> list[nodes.Node]:
    """Return every expression that a template writes."""
    parsed = jinja2.Environment().parse(template)
    return [part for found in parsed.find_all(nodes.Output) for part in found.nodes]


def _comes_from_a_notebook(part: nodes.Node) -> bool:
    names = {name.name for name in [part, *part.find_all(nodes.Name)] if isinstance(name, nodes.Name)}
    return bool(names & {"cell", "output", "line", "nb"})


def _is_safe(part: nodes.Node) -> bool:
    if isinstance(part, nodes.Filter):
        return part.name in ESCAPES
    if isinstance(part, nodes.Call):
        return isinstance(part.node, nodes.Getattr) and part.node.attr in ("clean", "show")
    if isinstance(part, nodes.CondExpr):
        return all(isinstance(side, nodes.Const | nodes.CondExpr) for side in (part.expr1, part.expr2))
    return False


def test_no_block_of_the_template_writes_what_comes_from_a_notebook_unescaped() -> None:
    text = (TEMPLATE_FOLDER / TEMPLATE / "index.html.j2").read_text()
    written = [part for part in _writes(text) if _comes_from_a_notebook(part)]
    assert len(written) > 10
    assert [part for part in written if not _is_safe(part)] == []
    raw = _writes("{{ cell.source }}{{ output.data['text/html'] }}{{ cell.source | markdown2html }}")
    assert not any(_is_safe(part) for part in raw), "the test sees a block that does"


def test_every_block_that_the_base_writes_something_in_is_written_anew() -> None:
    """What nbconvert's own templates write is not ours to trust: `rawcell` is one that copies its source."""
    environment = jinja2.Environment()
    own = {block.name for block in environment.parse(_read(TEMPLATE, "index.html.j2")).find_all(nodes.Block)}
    for name in ("null.j2", "display_priority.j2"):
        for block in environment.parse(_read_base(name)).find_all(nodes.Block):
            written = [part for found in _outputs(block) for part in found.nodes]
            assert not any(_comes_from_a_notebook(part) for part in written) or block.name in own, block.name


def _outputs(block: nodes.Node) -> list[nodes.Output]:
    """Return what a block writes itself, without the blocks in it."""
    inner = [child for child in block.iter_child_nodes() if not isinstance(child, nodes.Block)]
    return [child for child in inner if isinstance(child, nodes.Output)] + [
        found for child in inner for found in _outputs(child)
    ]


def _read(*names: str) -> str:
    return TEMPLATE_FOLDER.joinpath(*names).read_text()


def _read_base(name: str) -> str:
    from nbconvert import HTMLExporter

    places = HTMLExporter(template_name="base").template_paths
    return next(path for place in places if (path := Path(place) / name).is_file()).read_text()


def test_a_frame_of_pandas_keeps_its_columns_and_nothing_else_keeps_a_class() -> None:
    assert clean_html('<table class="dataframe" id="x"><tr class="fail"><td style="x">1') == (
        '<table class="dataframe"><tbody><tr><td>1</td></tr></tbody></table>'
    )
    assert clean_html('<div class="dataframe">x</div>') == "<div>x</div>"
    assert clean_html('<table class="dataframe banner"></table>') == "<table></table>"


def test_a_file_cannot_hold_what_is_taken_for_our_own_markup(tmp_path: Path) -> None:
    ours = Html('<p class="banner pass">x</p>')
    assert clean_html(ours) is ours
    notebook = failed_notebook([samples.html_cell("x", ours)])
    nbformat.write(notebook, tmp_path / "x.ipynb")
    assert Page(render_html(tmp_path / "x.ipynb")).banners == ["banner fail"]
