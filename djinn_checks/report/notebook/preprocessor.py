"""What the nbconvert template needs of a notebook: the verdict once, our figures made anew, all else cleaned.

The template's conf.json names this class, so that `jupyter nbconvert --template djinn_checks` and
`render_html` go the same way.
"""

from __future__ import annotations

from typing import Any

from nbconvert.preprocessors import Preprocessor
from nbformat.v4 import new_code_cell, new_output

from djinn_checks.outcome import Outcome
from djinn_checks.report.lead import draw_lead
from djinn_checks.report.load import carries_outcome, find_outcome
from djinn_checks.report.notebook.cells import find_call, names_drawing, redraw
from djinn_checks.report.notebook.clean import clean_html
from djinn_checks.report.notebook.fill import Figures
from djinn_checks.report.tables import Html
from djinn_checks.report.verdict import render_context, render_figure, render_no_verdict, render_verdict

RESOURCE = "djinn_checks_outcome"
"""The resource under which an exporter's caller may hand over a settled outcome."""

NOTE = "djinn_checks_note"
"""The resource for HTML that stands below the verdict and comes from elsewhere than the outcome."""

NAME = "djinn_checks_name"
"""The resource for what the report is called: its file's name, where it has one."""

INDEX = "djinn_checks_index"
"""The resource for the page that lists this report beside others; empty where there is none."""

_POINTER = new_output(
    "display_data", {"text/html": Html("<p><small>The verdict stands at the top of this page.</small></p>")}
)

_FIGURE_ABOVE = Html("<p><small>This figure stands at the top of the page.</small></p>")

RUN_TAG = "djinn-checks-run"
"""Marks the cell that runs the check. A notebook of before this tag is read by what its cells showed."""

_NOT_RUN_TAG = "djinn-checks-not-run"

_PAPERMILL_TAG = "papermill-error-cell-tag"
_PAPERMILL_ANCHOR = "papermill-error-cell"
"""papermill adds two cells in large red letters around a cell that raised; a page says the same quietly."""


class VerdictPreprocessor(Preprocessor):  # type: ignore[misc]  # nbconvert has no annotations
    """Puts the verdict into the resources and takes it out of the cells: a page says it once."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        outcome: Outcome | None = resources.get(RESOURCE) or find_outcome(nb)
        name, lead = resources.get(NAME, ""), draw_lead(outcome) if outcome else None
        picture = render_figure(*lead.plot, for_phones=True) if lead else Html("")
        figures: Figures = {(lead.drawing, ()): picture} if lead and lead.drawing else {}
        resources["djinn_checks"] = {
            "title": f"{outcome.status.value}: {name or outcome.check}" if outcome else "No verdict",
            "verdict": _render_top(outcome, name, picture) + resources.get(NOTE, ""),
            "index": resources.get(INDEX, ""),
            "context": render_context(outcome) if outcome and outcome.failure else "",
            "clean": clean_html,
            "show": _show,
            "figures": figures,
        }
        if outcome is not None and outcome.failure:
            _fold_what_was_not_run(nb)
        shown = lead.drawing if lead else ""
        nb.cells = [_restate(cell, outcome, shown, figures) for cell in nb.cells]
        return nb, resources


def _render_top(outcome: Outcome | None, name: str, picture: Html) -> Html:
    """Return what a page begins with: the verdict, one figure that shows what decided, and the criteria."""
    if outcome is None:
        return render_no_verdict()
    return render_verdict(outcome, name, picture)


def _restate(cell: Any, outcome: Outcome | None, shown: str, figures: Figures) -> Any:
    """Return a cell with what it shows of the outcome made anew. All else is cleaned where the template writes it.

    Args:
        shown: the drawing that stands at the top of the page; it is not drawn again.
        figures: gets what is drawn.
    """
    if cell.cell_type == "code":
        cell.outputs = _restate_outputs(cell, outcome, shown, figures)
    elif cell.cell_type == "markdown" and _PAPERMILL_TAG in (cell.metadata.get("tags") or ()):
        said = new_output("display_data", {"text/html": _restate_marker(cell.source)})
        return new_code_cell("", outputs=[said])
    return cell


def _show(markup: str) -> str:
    """Return an output's markup: our own as it is, and what is foreign cleaned and in a frame that it cannot widen."""
    if isinstance(markup, Html):
        return markup
    return f'<div class="foreign" role="group" tabindex="0" aria-label="Output">{clean_html(markup)}</div>'


def _fold_what_was_not_run(nb: Any) -> None:
    """Put all code after the last cell that showed anything into one cell, and drop the headings between."""
    shown = [place for place, cell in enumerate(nb.cells) if cell.get("outputs")]
    start = _find_check(nb) if not shown else max(shown[-1] + 1, _find_check(nb))
    rest = ["".join(cell.source) for cell in nb.cells[start:] if cell.cell_type == "code"]
    if rest:
        nb.cells[start:] = [new_code_cell("\n\n".join(rest), metadata={"tags": [_NOT_RUN_TAG]})]


def _find_check(nb: Any) -> int:
    """Return the place after the cell that runs the check: it may have been stopped before it showed anything."""
    found = [place for place, cell in enumerate(nb.cells) if RUN_TAG in cell.metadata.get("tags", ())]
    return found[0] + 1 if found else 0


def _restate_outputs(cell: Any, outcome: Outcome | None, shown: str, figures: Figures) -> list[Any]:
    """Return what a cell shows of the outcome, made anew; of a run that stopped, only where it came so far."""
    if outcome is not None and "".join(cell.source).rstrip().endswith("\nparams"):
        return []  # the page has them folded at its end
    if outcome is not None and (cell.outputs or not outcome.failure):
        is_above = bool(shown) and names_drawing(cell) == shown
        made = _FIGURE_ABOVE if is_above else redraw(cell, outcome)
        if made is not None:
            if not is_above and (call := find_call(cell)):
                figures[call] = made
            return [new_output("display_data", {"text/html": Html(f'<div class="djinn-checks">{made}</div>')})]
    return _gather_messages([_POINTER if carries_outcome(output) else output for output in cell.outputs])


def _gather_messages(outputs: list[Any]) -> list[Any]:
    """Return outputs with all that went to stderr in one, where the first of it stands: each is a fold on the page."""
    messages = [output for output in outputs if output.get("name") == "stderr"]
    if len(messages) < 2:
        return outputs
    text = "".join("".join(message.text) for message in messages)
    gathered = new_output("stream", name="stderr", text=text)
    others = [output for output in outputs if output.get("name") != "stderr" or output is messages[0]]
    return [gathered if output is messages[0] else output for output in others]


def _restate_marker(source: str) -> Html:
    if f'id="{_PAPERMILL_ANCHOR}"' in source:
        words = "The notebook stopped in the next cell."
        return Html(f'<p class="stopped" id="{_PAPERMILL_ANCHOR}">{words}</p>')
    place = f'<a href="#{_PAPERMILL_ANCHOR}">where</a>'
    return Html(f'<p class="stopped">This notebook did not come to its end: {place}.</p>')
