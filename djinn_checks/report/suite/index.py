"""The front page of a suite's folder: every verdict on one page, with links to the reports."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from djinn_checks.outcome import Outcome, Status, worst
from djinn_checks.report.page import render_page
from djinn_checks.report.suite.claims import render_limits, tabulate_claims
from djinn_checks.report.suite.league import PAGE, rank_systems, tabulate_league
from djinn_checks.report.tables import Html, render_mapping, render_table, status_chip
from djinn_checks.report.verdict import format_start
from djinn_checks.units import format_seconds

_EVIDENCE = {
    "ipynb": "notebook",
    "outcome.json": "outcome",
    "params.yaml": "params",
    "samples.csv.gz": "readings",
    "log": "log",
}
"""Files beside a report by their endings, and what they are called."""


def render_index(
    title: str,
    outcomes: Mapping[str, Outcome],
    files: Mapping[str, Mapping[str, int]],
    unreadable: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the page as HTML: self-contained, and it makes no request.

    Args:
        title: name of the suite.
        outcomes: by the name of the params file.
        files: the files that each left beside the page, by the same names: file name to bytes.
        unreadable: why an outcome that is there cannot be read, by the names of those. Each counts as an ERROR.
    """
    status = worst((*(outcome.status for outcome in outcomes.values()), *(Status.ERROR for _ in unreadable)))
    total = len(outcomes) + len(unreadable)
    count = f"{total} check{'' if total == 1 else 's'}"
    count += f", of which {len(unreadable)} cannot be read" if unreadable else ""
    disk = {name: sum(sizes.values()) for name, sizes in files.items()}
    parts = (
        f"<p>{count}, {status_chip(status)} on the whole: the worst verdict decides.</p>\n",
        _verdicts(outcomes, files, unreadable),
        tabulate_claims(outcomes, disk),
        render_limits(),
        _league(outcomes),
        _machine(outcomes),
    )
    return render_page(title, parts)


def _verdicts(
    outcomes: Mapping[str, Outcome], files: Mapping[str, Mapping[str, int]], unreadable: Mapping[str, str]
) -> Html:
    rows = [
        (
            _link(name, files.get(name, {})),
            status_chip(outcome.status),
            outcome.summary,
            _time(outcome),
            _evidence(name, files.get(name, {})),
        )
        for name, outcome in outcomes.items()
    ]
    rows += [
        (_link(name, files.get(name, {})), Html("unknown"), why, Html(""), _evidence(name, files.get(name, {})))
        for name, why in unreadable.items()
    ]
    return render_table("Verdicts", ("Check", "Verdict", "What was found", "Time", "Evidence"), rows, numeric=False)


def _time(outcome: Outcome) -> Html:
    """Return how long a check took, and when it started."""
    took = format_seconds(outcome.timings.get("run_s", outcome.timings.get("total_s")))
    return Html(f'<span class="whole">{escape(took)}</span><small>{format_start(outcome.started_at)}</small>')


def _link(name: str, files: Mapping[str, int]) -> Html:
    report = f"{name}.html"
    return _anchor(report, name) if report in files else Html(f"{escape(name)} (no report)")


def _evidence(name: str, files: Mapping[str, int]) -> Html:
    """Return links to what the verdict rests on."""
    there = [(f"{name}.{ending}", word) for ending, word in _EVIDENCE.items() if f"{name}.{ending}" in files]
    links = ", ".join(_anchor(file, word) for file, word in there) or "none"
    return Html(links + _samples(f"{name}.samples.", files))


def _samples(prefix: str, files: Mapping[str, int]) -> str:
    """Return links to the tables of samples, folded: there may be many."""
    tables = [file for file in files if file.startswith(prefix) and file.endswith(".csv")]
    links = ", ".join(_anchor(file, file.removeprefix(prefix).removesuffix(".csv")) for file in tables)
    return f"<details><summary>{len(tables)} tables of samples</summary>{links}</details>" if tables else ""


def _anchor(file: str, words: str) -> Html:
    """Return a link to a file beside the page; `./` and quoting keep a name from being read as anything else."""
    return Html(f'<a href="./{escape(quote(file))}">{escape(words)}</a>')


def _league(outcomes: Mapping[str, Outcome]) -> Html:
    """Return the systems beside each other, if several ran the same model over the same kind of link."""
    leagues = rank_systems(outcomes)
    link = f'<p>The same on a page of its own: <a href="./{PAGE}">league of systems</a>.</p>' if leagues else ""
    return Html("".join(tabulate_league(league) for league in leagues) + link)


def _machine(outcomes: Mapping[str, Outcome]) -> Html:
    """Return machine and software of the first check that knows them, and say so if others differ."""
    known = [facts for outcome in outcomes.values() if (facts := _shared(outcome.environment))]
    if not known:
        return Html("")
    differ = any(facts != known[0] for facts in known)
    note = "<p>Not all checks ran in the same environment; each report has its own.</p>" if differ else ""
    return Html(render_mapping("Machine and software", known[0]) + note)


def _shared(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that all checks of a suite have in common: without what each of them was about."""
    return {name: value for name, value in environment.items() if name not in ("notebook", "system", "read")}
