"""An executed notebook as one self-contained page.

The page makes no request: style and figures are inlined, it holds no script, and its content security
policy forbids both. Its verdict is the outcome it was given, because a kernel may have died after it showed
another one; without one it is the outcome that the notebook embeds.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import HTMLExporter

from djinn_checks.bounded import read_text
from djinn_checks.outcome import Outcome
from djinn_checks.report.notebook.fill import Figures
from djinn_checks.report.notebook.preprocessor import INDEX, NAME, NOTE, RESOURCE
from djinn_checks.report.style import TEMPLATE, TEMPLATE_FOLDER
from djinn_checks.report.tables import Html


def render_html(
    notebook: str | os.PathLike[str] | Any,
    outcome: Outcome | None = None,
    note: Html | None = None,
    *,
    name: str = "",
    index: str = "",
    figures: Figures | None = None,
) -> str:
    """Return an executed notebook as one self-contained HTML page, the verdict first.

    Args:
        notebook: path of an .ipynb, or a NotebookNode.
        outcome: the settled outcome; None takes the one that the notebook embeds, and if there is none the
            page says so.
        note: stands below the verdict.
        name: what the report is called, as a rule its file; empty: as the check.
        index: a page beside it that lists it with others, to link back to; empty: none.
        figures: gets the page's figures, for a notebook that left them to it.

    Raises:
        OSError: the notebook cannot be read, or is no regular file.
        OutcomeError: the notebook embeds an outcome that cannot be read, and none was given.
    """
    is_path = isinstance(notebook, str | os.PathLike)
    node = nbformat.reads(read_text(notebook), as_version=4) if is_path else notebook
    title = Path(notebook).stem if is_path else "notebook"
    exporter = HTMLExporter(template_name=TEMPLATE, extra_template_basedirs=[str(TEMPLATE_FOLDER)])
    given = {RESOURCE: outcome, NOTE: note or "", NAME: name, INDEX: index}
    page, used = exporter.from_notebook_node(node, {"metadata": {"name": title}, **given})
    if figures is not None:
        figures.update(used["djinn_checks"]["figures"])
    return str(page)
