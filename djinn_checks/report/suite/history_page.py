"""Many finished suites as a page: what changed, what is flaky, then each criterion over time."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from djinn_checks.outcome import Status, format_quantity
from djinn_checks.report.page import render_page
from djinn_checks.report.suite.changes import LEAST_SIDE, Shift
from djinn_checks.report.suite.history import WHOLE, History, Point, Series, tell_differences
from djinn_checks.report.suite.history_plots import plot_run
from djinn_checks.report.tables import Html, fold, render_quantity, render_table, status_chip
from djinn_checks.report.verdict import format_start, render_figure
from djinn_checks.units import format_count

_METHOD = (
    "A change is marked where two levels differ by more than the noise that the series itself shows: the pooled t of "
    "trimmed means, at the place where it is largest, with at least two runs on either side (Yuen and Dixon 1973; "
    "Hawkins 1977). The level is shared out among all series of the page, so that a page of nothing but noise has a "
    "mark in one case of forty, and more rarely where another machine shows the noise of the same row. A few runs show "
    "large changes only. Each machine is a series of its own."
)


def render_history(title: str, history: History, unreadable: Sequence[str] = ()) -> str:
    """Return the page as HTML: self-contained, and it makes no request.

    Args:
        title: its heading.
        history: what is shown.
        unreadable: what could not be read, each in a sentence.
    """
    runs = list(dict.fromkeys(series.run for series in history.series))
    labels = list(history.machines)
    parts = (
        f"<p>{escape(' '.join(summarize_history(history)))}</p>",
        _list("What cannot be read", unreadable),
        _list("What may be several machines in one series", [tell_mixed(*found) for found in history.mixed]),
        _changes(history),
        _flaky(history),
        _machines(history),
        *(_run(run, [series for series in history.series if series.run == run], labels) for run in runs),
        f'<section class="markdown"><h2>How a change is found</h2><p>{escape(_METHOD)}</p></section>',
        _list("The same outcome twice, counted once", history.repeated),
    )
    return render_page(title, parts)


def summarize_history(history: History) -> list[str]:
    """Return how much there is, and how much of it changed, in sentences."""
    points = {id(point.outcome): point for series in history.series for point in series.points}
    dates = sorted(point.outcome.started_at[:10] for point in points.values() if point.outcome.started_at)
    folders = {point.folder for point in points.values()}
    when = f" from {dates[0]} to {dates[-1]}" if dates else ""
    rows = [series for series in history.series if series.criterion != WHOLE]
    worse = sum(bool(series.is_worse(shift)) for series, shift in history.changed)
    marks = len(history.changed)
    return [
        f"{format_count(len(points), 'outcome')} in {format_count(len(folders), 'folder')} of "
        f"{format_count(len(history.machines), 'machine')}{when}.",
        f"{format_count(len(rows), 'series')}, {history.tested} of them with the {2 * LEAST_SIDE} runs that a mark "
        "takes at least, and figures that differ.",
        f"{format_count(marks, 'marked change')}{f', {worse} for the worse' if worse else ''}; "
        f"{format_count(len(history.flaky), 'flaky row')}.",
    ]


def tell_change(series: Series, shift: Shift) -> str:
    """Return a change in one line of plain text."""
    unit = series.row.unit if series.row else ""
    before, after = (format_quantity(value, unit) for value in (shift.before, shift.after))
    point = series.points[shift.at]
    commit = f", commit {point.commit}" if point.commit else ""
    return f"{name_series(series)}: {before} → {after}{_size(series, shift)} since {_minute(point)}{commit}"


def tell_flips(series: Series) -> str:
    """Return the flips of a flaky row in one line of plain text."""
    return f"{name_series(series)}: {_flips(series)}"


def tell_mixed(one: Point, other: Point, series: Series) -> str:
    """Return in one line that two runs of a series were at the same time."""
    return (
        f"{series.run} on {series.machine}: the runs of {one.folder} and {other.folder} overlap in time, so this may "
        "be two hosts that are built alike, or two GPUs of one; tell them apart with HOST=FOLDER"
    )


def name_series(series: Series) -> str:
    """Return what a series is of, in words."""
    return f"{series.run}: {series.criterion or 'the whole check'} on {series.machine}"


def _size(series: Series, shift: Shift) -> str:
    worse = series.is_worse(shift)
    direction = "" if worse is None else ", worse" if worse else ", better"
    return f" ({100 * (shift.ratio - 1):+.3g} %{direction})" if shift.ratio else f" ({direction[2:]})" * bool(direction)


def _flips(series: Series) -> str:
    statuses = [point.status for point in series.points]
    tally = ", ".join(f"{statuses.count(kind)} {kind.value}" for kind in Status if kind in statuses)
    last = _minute(series.points[series.flips[-1]])
    flips, runs = format_count(len(series.flips), "flip"), format_count(len(statuses), "run")
    return f"{flips} in {runs} ({tally}), the last at {last}"


def _minute(point: Point) -> str:
    return point.outcome.started_at[:16].replace("T", " ") or "an unknown day"


def _changes(history: History) -> Html:
    if not history.changed:
        return Html("<p><strong>Marked changes</strong>: none.</p>")
    rows = []
    for series, shift in history.changed:
        before, after = series.points[shift.at - 1], series.points[shift.at]
        unit = series.row.unit if series.row else ""
        levels = [render_quantity(level, unit) for level in (shift.before, shift.after)]
        if levels[0] == levels[1]:  # rounded for a table of observed figures, where a change of 3 % may not show
            levels = [Html(escape(format_quantity(level, unit))) for level in (shift.before, shift.after)]
        since = Html(f"{format_start(after.outcome.started_at)}<small>{escape(after.folder)}</small>")
        beside = "; ".join(tell_differences(before.outcome, after.outcome)) or "nothing that the outcomes tell of"
        level = Html(f"{' → '.join(levels)}<small>{escape(_size(series, shift))}</small>")
        rows.append((_name(series), series.machine, level, since, beside))
    columns = ("Row", "Machine", "Level", "Since", "What else changed there")
    return render_table("Marked changes", columns, rows, numeric=False)


def _flaky(history: History) -> Html:
    if not history.flaky:
        return Html("<p><strong>Flaky rows</strong>: none.</p>")
    rows = [(_name(series), series.machine, _flips(series), _chips(series)) for series in history.flaky]
    note = "The status flips, and no change of the figure is marked there: noise decides, or the row has no figure."
    return render_table("Flaky rows", ("Row", "Machine", "Flips", "In order"), rows, note=note, numeric=False)


_MOST_CHIPS = 24


def _chips(series: Series) -> Html:
    return Html(" ".join(status_chip(point.status) for point in series.points[-_MOST_CHIPS:]))


def _name(series: Series) -> Html:
    what = f"<code>{escape(series.criterion)}</code>" if series.criterion else "the whole check"
    mark = ' <span class="mark">informative</span>' if series.row and not series.row.required else ""
    return Html(f"{escape(series.run)}: {what}{mark}")


def _machines(history: History) -> Html:
    rows = [(label, machine.describe()) for label, machine in history.machines.items()]
    return render_table("Machines", ("Label", "As its outcomes say"), rows, numeric=False)


def _run(run: str, found: Sequence[Series], labels: Sequence[str]) -> Html:
    rows: dict[str, list[Series]] = {}
    for series in found:
        if series.criterion != WHOLE:
            rows.setdefault(series.criterion, []).append(series)
    drawn = [row for row in rows.values() if len({value for series in row for value in series.values}) > 1]
    drawn.sort(key=lambda row: not any(series.shifts for series in row))
    plot = plot_run(run, drawn, labels)
    table = render_table(f"{run}: every row", _COLUMNS, [_line(series) for series in found], numeric=False)
    heading = f'<section class="markdown"><h2>{escape(run)}</h2></section>'
    return Html(heading + render_figure(plot.figure, plot.alt, for_phones=True) + fold("Every row", table))


_COLUMNS = ("Row", "Machine", "Runs", "First", "Last", "Lowest", "Highest", "Statuses")


def _line(series: Series) -> Sequence[object]:
    unit, values = series.row.unit if series.row else "", series.values
    ends = (values[0], values[-1], min(values), max(values)) if values else ()
    cells = [render_quantity(value, unit) for value in ends] or [Html("")] * 4
    statuses = [point.status for point in series.points]
    tally = ", ".join(f"{statuses.count(kind)} {kind.value}" for kind in Status if kind in statuses)
    return (_name(series), series.machine, str(len(series.points)), *cells, tally)


def _list(caption: str, lines: Sequence[str]) -> Html | str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return Html(f'<section class="markdown"><h2>{escape(caption)}</h2><ul>{items}</ul></section>') if lines else ""
