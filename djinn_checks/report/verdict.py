"""The verdict as HTML: banner, criteria and what stopped a check, for a notebook (`show`) and for pages."""

from __future__ import annotations

import os
from html import escape
from typing import TYPE_CHECKING

from djinn_checks.errors import UnfinishedError
from djinn_checks.outcome import Failure, Outcome, Status
from djinn_checks.report.criteria_table import render_criteria
from djinn_checks.report.load import OUTCOME_MIME
from djinn_checks.report.progress import SCRATCH
from djinn_checks.report.style import read_style
from djinn_checks.report.summary import tell
from djinn_checks.report.tables import ICONS, Html, describe_subject, render_environment, render_params

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NOT_THERE = "system_available"
"""The row of a system that said no when it was built or opened."""

_MEANINGS = {
    Status.PASS: "measured, and every required criterion holds",
    Status.FAIL: "measured, and the claim does not hold",
    Status.INCONCLUSIVE: "not decided: evidence is missing or too coarse",
    Status.ERROR: "the check itself did not finish, so nothing is decided",
    Status.SKIP: "not asked for",
}


def render_banner(outcome: Outcome, name: str = "") -> Html:
    """Return the verdict: icon, word, key figure, and how the criteria came out.

    Args:
        name: what the report is called; empty: as the check.
    """
    status = outcome.status
    return Html(
        f'<div class="banner {status.value.lower()}">'
        f'<p class="verdict"><span class="icon" aria-hidden="true">{ICONS[status]}</span> '
        f'<strong>{status.value}</strong> <span class="check">{escape(name or outcome.check)}</span>'
        f"{_mark(outcome)}</p>"
        f'<p class="summary">{escape(tell(outcome))}</p>'
        f'<p class="meaning">{_meaning(outcome)}</p></div>'
    )


def _mark(outcome: Outcome) -> str:
    """Return a mark for a verdict that is about something else than a GPU's link."""
    subject = describe_subject(outcome)
    return f' <span class="subject">{escape(subject)}</span>' if subject else ""


def render_no_verdict() -> Html:
    """Return the banner of a notebook in which no check came to an end."""
    return Html(
        '<div class="banner none">'
        '<p class="verdict"><span class="icon" aria-hidden="true">∅</span> <strong>NO VERDICT</strong></p>'
        '<p class="summary">This notebook holds no verdict: no output carries an outcome.</p>'
        '<p class="meaning">It was not run, or stopped before show(outcome). Nothing below is a pass.</p></div>'
    )


def render_verdict(outcome: Outcome, name: str = "", picture: Html | str = "") -> Html:
    """Return banner, failure and criteria: everything that decides.

    Args:
        name: as of `render_banner`.
        picture: stands before the criteria.
    """
    failure = render_failure(outcome.failure) if outcome.failure else ""
    return Html(render_banner(outcome, name) + failure + picture + render_criteria(outcome))


def render_failure(failure: Failure) -> Html:
    """Return what stopped a check, its traceback folded."""
    trace = escape(failure.traceback.rstrip())
    name = "Traceback" if trace.startswith(("Traceback", "---")) else "Last output"
    folded = f"<details><summary>{name}</summary><pre>{trace}</pre></details>" if trace else ""
    place = f"{failure.file}:{failure.line}" if failure.line is not None else failure.file
    where = f" in <code>{escape(place)}</code>" if place else ""
    return Html(
        f'<section class="failure"><h2>What stopped the check</h2><p><code>{escape(failure.type)}</code>{where}</p>'
        f"<pre>{escape(failure.message)}</pre>{folded}</section>"
    )


def render_context(outcome: Outcome) -> Html:
    """Return parameters and machine, folded: for pages whose notebook may not have come so far."""
    return Html(f"{render_params(outcome)}{render_environment(outcome)}")


def show(outcome: Outcome) -> None:
    """Display the verdict in a notebook, and embed the outcome in the same output for those who read it later.

    In a plain Python shell it is printed.
    """
    from IPython import get_ipython  # only where a kernel runs
    from IPython.display import display

    if get_ipython() is None:
        print(describe(outcome))
        return
    data = {"text/html": render_fragment(outcome), "text/plain": describe(outcome), OUTCOME_MIME: outcome.to_dict()}
    display(data, raw=True)


def stop_on_error(outcome: Outcome) -> None:
    """End a notebook whose check did not come to its end, so that papermill's exit code says it.

    In a suite nothing happens: its runner reads the outcome, and settles it.

    Raises:
        UnfinishedError: the check crashed, or its system said no before anything ran, so there is no verdict.
    """
    if SCRATCH in os.environ:
        return
    if outcome.failure is not None:
        raise UnfinishedError(f"the check did not finish, so there is no verdict: {describe(outcome)}")
    if any(row.name == _NOT_THERE and row.status is not Status.PASS for row in outcome.criteria):
        raise UnfinishedError(f"the system did not run, so there is no verdict about it: {describe(outcome)}")


def render_fragment(outcome: Outcome) -> Html:
    """Return the verdict with its style: banner and criteria as they stand in a notebook."""
    return Html(f'<style>{read_style()}</style><div class="djinn-checks">{render_verdict(outcome)}</div>')


def describe(outcome: Outcome) -> str:
    """Return the verdict in one line of plain text."""
    return f"{outcome.status.value}: {outcome.summary}"


def show_figure(figure: Figure | None, alt: str) -> None:
    """Display a figure in a notebook as SVG with its description; without a figure, the description alone.

    The SVG is an image of its own, so that the ids of two figures on one page never meet.
    """
    from IPython.display import display  # only where a kernel runs

    inner = render_figure(figure, alt)
    display({"text/html": f'<div class="djinn-checks">{inner}</div>', "text/plain": alt}, raw=True)


def render_figure(figure: Figure | None, alt: str, *, for_phones: bool = False) -> Html:
    """Return a figure as an image with alternative text, or the text alone where there is no figure.

    Args:
        for_phones: have a second image beside it that a narrow screen shows in its place; drawing it takes as long as
            the first, so it is for the figure that a page begins with and for those whose letters would be too small
            there (`drawings.FOR_PHONES`).
    """
    if figure is None:
        return Html(f'<p class="nothing-to-draw">{escape(alt)}</p>')
    from djinn_checks.report.plots import to_narrow_svg, to_svg  # a verdict without a figure needs no matplotlib
    from djinn_checks.report.svg import to_address

    wide = to_address(to_svg(figure))
    narrow = to_address(to_narrow_svg(figure)) if for_phones else ""
    source = f'<source media="(max-width: 40rem)" srcset="{narrow}">' if narrow else ""
    image = f'<picture>{source}<img src="{wide}" alt="{escape(alt)}"></picture>'
    picture = f'<div class="picture" role="group" tabindex="0" aria-label="Figure">{image}</div>'
    return Html(f'<figure>{picture}<figcaption aria-hidden="true">{escape(alt)}</figcaption></figure>')


def format_start(started_at: str) -> Html:
    """Return when a run started, in a form that is not broken over two lines."""
    return Html(f'<span class="whole">{escape(started_at.replace("T", " ").replace("+00:00", " UTC"))}</span>')


def _meaning(outcome: Outcome) -> str:
    required = [row.status for row in outcome.criteria if row.required]
    counts = [f"{required.count(status)} {status.value}" for status in Status if status in required]
    tally = f"Required criteria: {', '.join(counts)}." if counts else ""
    meaning = _MEANINGS[outcome.status]
    when = f"Started {format_start(outcome.started_at)}." if outcome.started_at else ""
    return " ".join(part for part in (f"{meaning[0].upper()}{meaning[1:]}.", tally, when) if part)
