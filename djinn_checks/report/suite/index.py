"""The front page of a suite's folder: the claims of what is under test, each answered once, and every verdict with its
report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType

from djinn_checks.outcome import Outcome, Status, worst
from djinn_checks.report.page import render_page
from djinn_checks.report.pcie.plots import plot_flatline
from djinn_checks.report.suite.claims import (
    Answer,
    answer_claims,
    render_cost,
    render_limits,
    tabulate_claims,
    tabulate_claims_by_host,
)
from djinn_checks.report.suite.hosts import name_hosts
from djinn_checks.report.suite.hosts_table import find_shared_facts, group_by_host, render_hosts
from djinn_checks.report.suite.league import PAGE as LEAGUE
from djinn_checks.report.suite.league import rank_systems, tabulate_league
from djinn_checks.report.suite.servers import PAGE as SERVERS
from djinn_checks.report.suite.servers import rank_servers, tabulate_servers
from djinn_checks.report.suite.subjects import Cast, cast_runs, name_subject
from djinn_checks.report.summary import tell
from djinn_checks.report.tables import ICONS, Html, fold, link_beside, render_mapping, render_table, status_chip
from djinn_checks.report.verdict import format_start, render_figure
from djinn_checks.units import format_count, format_seconds

_EVIDENCE = {
    "ipynb": "notebook",
    "outcome.json": "outcome",
    "params.yaml": "params",
    "samples.csv.gz": "readings",
    "log": "log",
}
"""Files beside a report by their endings, and what they are called."""
_LONGEST_WHOLE = 20
"""Letters of a name that is not broken between its words either."""


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
    cast, hosts = cast_runs(outcomes), name_hosts(outcomes)
    own_by_host = group_by_host(cast.own, hosts)
    answers = _answer_claims(own_by_host)
    disk = {name: sum(sizes.values()) for name, sizes in files.items()}
    parts = (
        _answer_in_short(cast, answers, unreadable, list(own_by_host)),
        _picture(cast, answers),
        tabulate_claims_by_host(own_by_host) if len(own_by_host) > 1 else tabulate_claims(cast.own),
        _runs("Runs of what is under test", cast.own, files, disk, hosts),
        _unreadable(unreadable, files),
        _runs("Other systems, beside it" if cast.own else "Runs", cast.rivals, files, disk, hosts, rivals=True),
        _league(outcomes),
        _servers(outcomes),
        _runs("Can the checks fail? Planted faults", cast.faults, files, disk, hosts),
        render_limits(),
        render_hosts(outcomes, hosts) if len(set(hosts.values())) > 1 else _machine(outcomes),
    )
    return render_page(title, parts)


def _answer_claims(own_by_host: Mapping[str, Mapping[str, Outcome]]) -> list[Answer]:
    """Return one answer to each claim: that of the only host, else the worst of all hosts that were asked."""
    answers = [answer_claims(own) for own in own_by_host.values()] or [answer_claims({})]
    return [min(of_claim, key=_worst_first) for of_claim in zip(*answers, strict=True)]


def _worst_first(answer: Answer) -> int:
    order = (Status.ERROR, Status.FAIL, Status.INCONCLUSIVE, Status.PASS, Status.SKIP, None)
    return order.index(answer.status)


def _answer_in_short(
    cast: Cast, answers: Sequence[Answer], unreadable: Mapping[str, str], hosts: Sequence[str]
) -> Html:
    """Return the suite's verdict as a banner: about what is under test, and not about its rivals."""
    asked = [answer.status for answer in answers if answer.status is not None]
    ran = [outcome.status for outcome in cast.deciding.values()]
    status = worst((*asked, *ran, *(Status.ERROR for _ in unreadable)))
    if not cast.own and not cast.faults and not unreadable:
        return _no_subject(cast)
    held = asked.count(Status.PASS)
    summary = f"{held} of the paper's {len(answers)} claims hold" if asked else "None of the paper's claims was run"
    others = [f"{asked.count(kind)} {kind.value}" for kind in Status if kind is not Status.PASS and kind in asked]
    others += [f"{len(answers) - len(asked)} not run"] if asked and len(asked) < len(answers) else []
    summary += f"; {', '.join(others)}" if others else ""
    meaning = [f"Under test: {', '.join(cast.subjects)}."] if cast.own else []
    if len(hosts) > 1:
        meaning.append(f"On {len(hosts)} hosts, {', '.join(hosts)}: of each claim the worst that one of them came to.")
    meaning += (
        [f"{format_count(len(unreadable), 'outcome')} cannot be read, which counts as ERROR."] if unreadable else []
    )
    if cast.rivals:
        told = "of other systems below: their verdicts are their own" if cast.own else "below, each of which counts"
        meaning += [f"{format_count(len(cast.rivals), 'run')} {told}."]
    return Html(
        f'<div class="banner {status.value.lower()}"><p class="verdict">'
        f'<span class="icon" aria-hidden="true">{ICONS[status]}</span> <strong>{status.value}</strong></p>'
        f'<p class="summary">{escape(summary)}</p><p class="meaning">{escape(" ".join(meaning))}</p></div>'
    )


def _no_subject(cast: Cast) -> Html:
    """Return the sentence of a suite in which no system is singled out."""
    if not cast.rivals:
        return Html("<p>Nothing was run.</p>")
    statuses = [outcome.status for outcome in cast.rivals.values()]
    tally = ", ".join(f"{statuses.count(kind)} {status_chip(kind)}" for kind in Status if kind in statuses)
    return Html(
        f"<p>{format_count(len(statuses), 'run')} beside each other: {tally}. None of them is singled out as the one "
        "under test, so each verdict stands for itself, and no claim is answered here.</p>"
    )


def _picture(cast: Cast, answers: Sequence[Answer]) -> Html | str:
    """Return the flatline of the run that decided about the link; nothing where no counters were read."""
    decided = next((answer.decided_by for answer in answers if answer.claim.check == "pcie"), "")
    if not decided:
        return ""
    plot = plot_flatline(cast.own[decided], height=2.7)
    return "" if plot.figure is None else render_figure(plot.figure, f"{decided}. {plot.alt}", for_phones=True)


def _runs(
    caption: str,
    outcomes: Mapping[str, Outcome],
    files: Mapping[str, Mapping[str, int]],
    disk: Mapping[str, int],
    hosts: Mapping[str, str],
    *,
    rivals: bool = False,
) -> Html | str:
    many = len(set(hosts.values())) > 1
    rows = [
        (
            _link(name, files.get(name, {})),
            *((_whole(hosts[name]),) if many else ()),
            status_chip(outcome.status),
            *((_whole(name_subject(outcome)),) if rivals else ()),
            tell(outcome),
            Html(_time(outcome) + f"<small>{render_cost(outcome, disk.get(name))}</small>"),
            _evidence(name, files.get(name, {})),
        )
        for name, outcome in outcomes.items()
    ]
    columns = (
        "Report",
        *(("Host",) if many else ()),
        "Verdict",
        *(("System",) if rivals else ()),
        "What was found",
        "Time and memory",
        "Evidence",
    )
    return render_table(caption, columns, rows, numeric=False) if rows else ""


def _whole(words: str) -> Html:
    """Return a name that a narrow column does not break; one that is long, between its words alone."""
    parts = words.split(" ") if len(words) > _LONGEST_WHOLE else [words]
    return Html(" ".join(f'<span class="whole">{escape(part)}</span>' for part in parts))


def _unreadable(unreadable: Mapping[str, str], files: Mapping[str, Mapping[str, int]]) -> Html | str:
    rows = [
        (_link(name, files.get(name, {})), why, _evidence(name, files.get(name, {})))
        for name, why in unreadable.items()
    ]
    return (
        render_table("Outcomes that cannot be read", ("Report", "Why", "Evidence"), rows, numeric=False) if rows else ""
    )


def _time(outcome: Outcome) -> Html:
    """Return how long a check took, and when it started."""
    took = format_seconds(outcome.timings.get("run_s", outcome.timings.get("total_s")))
    return Html(f'<span class="whole">{escape(took)}</span><small>{format_start(outcome.started_at)}</small>')


def _link(name: str, files: Mapping[str, int]) -> Html:
    report = f"{name}.html"
    return link_beside(report, name) if report in files else Html(f"{escape(name)} (no report)")


def _evidence(name: str, files: Mapping[str, int]) -> Html:
    """Return links to what the verdict rests on."""
    there = [(f"{name}.{ending}", word) for ending, word in _EVIDENCE.items() if f"{name}.{ending}" in files]
    links = ", ".join(link_beside(file, word) for file, word in there) or "none"
    return Html(links + _samples(f"{name}.samples.", files))


def _samples(prefix: str, files: Mapping[str, int]) -> str:
    """Return links to the tables of samples, folded: there may be many."""
    tables = [file for file in files if file.startswith(prefix) and file.endswith(".csv")]
    links = ", ".join(link_beside(file, file.removeprefix(prefix).removesuffix(".csv")) for file in tables)
    return f"<details><summary>{len(tables)} tables of samples</summary>{links}</details>" if tables else ""


def _league(outcomes: Mapping[str, Outcome]) -> Html:
    """Return the systems beside each other, if several ran the same model over the same kind of link."""
    leagues = rank_systems(outcomes)
    link = f'<p>The same on a page of its own: <a href="./{LEAGUE}">league of systems</a>.</p>' if leagues else ""
    return Html("".join(tabulate_league(league) for league in leagues) + link)


def _servers(outcomes: Mapping[str, Outcome]) -> Html:
    """Return the servers beside each other, if several ran the same model on the same kind of device."""
    rankings = rank_servers(outcomes)
    link = f'<p>The same on a page of its own: <a href="./{SERVERS}">servers</a>.</p>' if rankings else ""
    return Html("".join(tabulate_servers(ranking) for ranking in rankings) + link)


def _machine(outcomes: Mapping[str, Outcome]) -> Html:
    """Return machine and software of the first check that knows them, and say so if others differ."""
    known = [facts for outcome in outcomes.values() if (facts := find_shared_facts(outcome.environment))]
    if not known:
        return Html("")
    differ = any(facts != known[0] for facts in known)
    note = "<p>Not all checks ran in the same environment; each report has its own.</p>" if differ else ""
    return Html(fold("Machine and software", render_mapping("Machine and software", known[0])) + note)
