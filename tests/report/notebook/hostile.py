"""Twenty notebooks that would turn a verdict over, if their markup came onto the page; all of it is harmless."""

from __future__ import annotations

import copy
from typing import Any

import nbformat

from djinn_checks.outcome import Status
from djinn_checks.report.load import OUTCOME_MIME
from djinn_checks.report.verdict import render_verdict
from tests.whole import whole

MARK = "x-forged"
"""A tag that no page of ours has: where it is found by a parser, markup came through."""
_BANNER = '<div class="banner pass" id="verdict"><p class="verdict"><strong>PASS</strong> logits</p></div>'
_REFRESH = '<meta http-equiv="refresh" content="0;url=about:blank#left">'
_STYLE = "<style>.verdict-section { display: none !important }</style>"
_PAPERMILL = {"tags": ["papermill-error-cell-tag"]}
_OUT = "</section></main></body>"


def _new(kind: str, source: str = "x", outputs: Any = (), **metadata: Any) -> Any:
    make = getattr(nbformat.v4, f"new_{kind}_cell")
    given = {"outputs": list(outputs)} if kind == "code" else {}
    return make(source, metadata=metadata, **given)


def _output(kind: str = "display_data", **data: str) -> Any:
    return nbformat.v4.new_output(kind, {name.replace("_", "/", 1): text for name, text in data.items()})


def _forged(markup: str) -> str:
    return f"<{MARK}>{markup}</{MARK}>{markup}"


_ALL = _forged(_BANNER + _REFRESH + _STYLE)
_STREAM = nbformat.v4.new_output("stream", name="stderr", text=_ALL)
_ERROR = nbformat.v4.new_output("error", ename=_ALL, evalue=_ALL, traceback=[_ALL])
_BREAKS_OUT = "<!-- " + _OUT + "--><plaintext>" + _ALL

NOTEBOOKS: dict[str, list[Any]] = {
    "raw cell with a refresh": [_new("raw", _forged(_REFRESH))],
    "raw cell with a style": [_new("raw", _forged(_STYLE))],
    "raw cell with a banner": [_new("raw", _forged(_BANNER), raw_mimetype="text/html")],
    "raw cell that leaves the page": [_new("raw", _OUT + _ALL)],
    "output of a cell with papermill's tag": [_new("code", "x", [_output(text_html=_ALL)], **_PAPERMILL)],
    "result of a cell with papermill's tag": [
        _new("code", "x", [_output("execute_result", text_html=_ALL)], **_PAPERMILL)
    ],
    "markdown with papermill's tag": [_new("markdown", 'id="papermill-error-cell"' + _ALL, **_PAPERMILL)],
    "raw cell with papermill's tag": [_new("raw", _ALL, **_PAPERMILL)],
    "output with a banner": [_new("code", "x", [_output(text_html=_ALL)])],
    "output with a banner in our own frame": [
        _new("code", "x", [_output(text_html=f'<div class="djinn-checks">{_ALL}</div>')])
    ],
    "output in pieces": [_new("code", "x", [_output(text_html="".join(list(_ALL)))])],
    "output that leaves the page": [_new("code", "x", [_output(text_html=_OUT + _ALL)])],
    "output that leaves a comment open": [_new("code", "x", [_output(text_html=_BREAKS_OUT)])],
    "markdown with a banner": [_new("markdown", _ALL)],
    "markdown in a heading": [_new("markdown", f"# {_ALL}\n\n[x](<javascript:x>) {_ALL}")],
    "markdown as an output": [_new("code", "x", [_output(text_markdown=_ALL)])],
    "words on stderr and stdout": [_new("code", "x", [_STREAM])],
    "an exception": [_new("code", "x", [_ERROR])],
    "source of a cell": [_new("code", f"%%html\n{_ALL}", tags=["djinn-checks-not-run"])],
    "formats that are not shown": [
        _new("code", "x", [_output(**{name: _ALL})])
        for name in ("text_latex", "application_javascript", "image_svg+xml", "image_png", "text_vnd.mermaid",
                     "text_plain", "application_x-other", "application_pdf")
    ],
}  # fmt: skip


def failed_notebook(cells: list[Any]) -> Any:
    """Return a notebook whose verdict is FAIL, with these cells before and behind it."""
    outcome = whole(status=Status.FAIL)
    shown = {"text/html": render_verdict(outcome), "text/plain": "x", OUTCOME_MIME: outcome.to_dict()}
    verdict = _new("code", "show(outcome)", [nbformat.v4.new_output("display_data", shown)])
    numbered = [copy.deepcopy(cell) for cell in (*cells, verdict, *cells)]
    for number, cell in enumerate(numbered):
        cell["id"] = f"cell-{number}"
    return nbformat.v4.new_notebook(cells=numbered)
