"""The servers of a suite beside each other: one model, one GPU, one ceiling of its link in each direction.

Each agents run measures the link's ceilings in its own minutes. Here all moves are held against the highest of them, as
in `league.py`, and how far apart they were is said. What a row rests on, a run's report says: a server with a pool
names no sessions, so some of its figures are by its own clock alone, and others are unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

from djinn_checks.measurements import agents
from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.page import render_page
from djinn_checks.report.suite.subjects import OWN_SERVER, name_subject
from djinn_checks.report.tables import Html, link_beside, render_table, status_chip
from djinn_checks.units import GB, format_bytes, format_percent, format_seconds

PAGE = "servers.html"
"""Beside the front page of a suite with two servers or more."""

_COLUMNS = (
    "Server", "Verdict", "Restore, share of ceiling", "Store, share of ceiling", "KV of a sleep",
    "First token after a sleep", "Never slept", "Computed anew", "Sessions at once", "Their KV over the budget",
    "Wake p99", "Offered load",
)  # fmt: skip
_END_OF_NAME = re.compile(r"\.(?=[A-Za-z])")
_DIRECTIONS = {"in": "to the device", "out": "from it"}
_NOTE = (
    "Both shares are of the common ceilings. Of a server with sessions, the slower of the link's counters and its own "
    "clock counts. A pool's restores are timed by the counters, or by its own clock where these could not time them; "
    "its stores by its own clock alone, while others compute. KV and first tokens are medians over the sleeps; first "
    "tokens and wakes are by the client's clock. The last four columns are about the crowd, whose size is each run's "
    "own, with – where a run had none; a pool's budget is the pool. At an offered load near 100% a wake measures the "
    "queue."
)


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """Many agents at once. None is unknown."""

    held: float | None
    """Sessions that were open at the same time, by the server's list."""
    times: float | None
    """Their KV at the end, times the budget or the pool."""
    wake_p99_s: float | None
    offered_load: float | None
    """Share of what the server can do."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """One run of a server. None is unknown."""

    server: str
    """Ours, or the address of another."""
    kind: str
    """Adapter, and version where it is known."""
    name: str
    """Of the run, as its report is called."""
    status: Status
    moved_bytes_per_s: Mapping[str, float | None]
    """By direction: "in" is a restore, "out" is a store. As the criterion has it that judges it."""
    ceilings_bytes_per_s: Mapping[str, float]
    """The run's own, by direction."""
    kv_bytes: float | None
    wake_s: float | None
    """First token after a sleep."""
    wake_hot_s: float | None
    """Of the same turn, by the twin that never slept."""
    wake_cold_s: float | None
    """Of the same turn, by the twin that was computed anew."""
    crowd: Crowd | None
    """None: the run had none."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Servers that ran the same model on the same kind of device, the fastest restore first."""

    subject: str
    """Model, data type and GPU."""
    ceilings_bytes_per_s: Mapping[str, float]
    """By direction the highest that any run measured; one that none did is not there."""
    spreads: Mapping[str, float]
    """By direction, (highest - lowest) / lowest of the runs' ceilings."""
    ran: tuple[Served, ...]


def rank_servers(outcomes: Mapping[str, Outcome]) -> list[Ranking]:
    """Return a ranking for each subject that two servers or more of a suite ran.

    Ours is one server, whether its sessions are told to sleep or not.

    Args:
        outcomes: by the name of the params file.
    """
    subjects: dict[str, list[Served]] = {}
    for name, outcome in outcomes.items():
        if outcome.check == "agents" and agents.read_timings(outcome.timings).get("sleeps"):
            subjects.setdefault(_subject(outcome), []).append(_read(name, outcome))
    return [_rank(subject, ran) for subject, ran in subjects.items() if len({_identify(served) for served in ran}) > 1]


def _identify(served: Served) -> str:
    return served.server if served.server == OWN_SERVER else f"{served.server} {served.kind}"


def _subject(outcome: Outcome) -> str:
    gpu = ((outcome.environment or {}).get("gpu") or {}).get("name") or "no GPU"
    return f"{outcome.params.get('model')}, {outcome.params.get('dtype') or 'default data type'}, {gpu}"


def _read(name: str, outcome: Outcome) -> Served:
    measured, timings = agents.read(outcome.measurements), agents.read_timings(outcome.timings)
    ceilings = {way: float(found) for way, found in (timings.get("ceilings_bytes_per_s") or {}).items() if found}
    return Served(
        server=name_subject(outcome),
        kind=_kind(outcome),
        name=name,
        status=outcome.status,
        moved_bytes_per_s={
            "in": _moved(outcome, "restore_of_ceiling", ceilings.get("in")),
            "out": _moved(outcome, "swap_out_of_ceiling", ceilings.get("out")),
        },
        ceilings_bytes_per_s=ceilings,
        kv_bytes=_median([sleep["kv_bytes"] for sleep in measured.get("sleeps") or ()]),
        wake_s=_median([sleep["wake_s"] for sleep in timings["sleeps"] if sleep.get("wake_s") is not None]),
        wake_hot_s=_median(timings.get("wake_hot_s") or ()),
        wake_cold_s=_median(timings.get("wake_cold_s") or ()),
        crowd=_read_crowd(outcome, timings.get("crowd")),
    )


def _kind(outcome: Outcome) -> str:
    """Return the adapter, and the version: what a pool says of itself, and of our own server the package's."""
    version = agents.read(outcome.measurements).get("server_version")
    if not outcome.params.get("server_address"):
        version = ((outcome.environment or {}).get("packages") or {}).get("djinn-checks")
    return f"adapter {outcome.params.get('adapter')}" + (f", version {version}" if version else "")


def _moved(outcome: Outcome, name: str, ceiling: float | None) -> float | None:
    share = _observed(outcome, name)
    return None if share is None or ceiling is None else share * ceiling


def _observed(outcome: Outcome, name: str) -> float | None:
    """Return what a criterion saw; None if it is not there, was skipped or saw nothing."""
    found = next((row for row in outcome.criteria if row.name == name and row.status is not Status.SKIP), None)
    return None if found is None or found.observed is None else float(found.observed)


def _median(values: Sequence[float]) -> float | None:
    return median(map(float, values)) if values else None


def _read_crowd(outcome: Outcome, crowd: agents.CrowdTimes | None) -> Crowd | None:
    if not crowd:
        return None
    return Crowd(
        held=_observed(outcome, "crowd_held_at_once"),
        times=_observed(outcome, "crowd_overcommits"),
        wake_p99_s=crowd.get("wake_p99_s"),
        offered_load=crowd.get("offered_load"),
    )


def _rank(subject: str, ran: Sequence[Served]) -> Ranking:
    own = {way: [served.ceilings_bytes_per_s.get(way, 0.0) for served in ran] for way in _DIRECTIONS}
    known = {way: [ceiling for ceiling in ceilings if ceiling] for way, ceilings in own.items() if any(ceilings)}
    return Ranking(
        subject=subject,
        ceilings_bytes_per_s={way: max(ceilings) for way, ceilings in known.items()},
        spreads={way: max(ceilings) / min(ceilings) - 1 for way, ceilings in known.items()},
        ran=tuple(sorted(ran, key=lambda served: -(served.moved_bytes_per_s["in"] or 0.0))),
    )


def render_servers(title: str, outcomes: Mapping[str, Outcome]) -> str | None:
    """Return the page as HTML, self-contained, or None if no two servers ran the same."""
    rankings = rank_servers(outcomes)
    if not rankings:
        return None
    parts = [part for ranking in rankings for part in (_introduce(ranking), tabulate_servers(ranking))]
    return render_page(f"Servers beside each other: {title}", parts)


def _introduce(ranking: Ranking) -> str:
    best = ranking.ran[0]
    share = _share(ranking, best, "in")
    fastest = f" The fastest restore: <strong>{escape(best.server)}</strong>, {format_percent(share)}" if share else ""
    fastest += f" (its run is {best.status})." if share and best.status is not Status.PASS else "." if share else ""
    return f"<p>{escape(ranking.subject)}. {tell_ceilings(ranking)}{fastest}</p>\n"


def tell_ceilings(ranking: Ranking) -> str:
    """Return the common ceilings in a sentence, and how far apart those of the runs were."""
    told = [
        f"{ranking.ceilings_bytes_per_s[way] / GB:.2f} GB/s {where}, {ranking.spreads[way]:.1%} above the lowest"
        for way, where in _DIRECTIONS.items()
        if way in ranking.ceilings_bytes_per_s
    ]
    if not told:
        return "No run measured the link's ceiling."
    return f"The common ceilings are the highest that any of these runs measured: {', and '.join(told)}."


def tabulate_servers(ranking: Ranking) -> Html:
    """Return one row for each run, the fastest restore first."""
    rows = [
        (
            Html(
                link_beside(f"{served.name}.html", _breakable(served.server))
                + f"<small>{escape(served.name)}, {escape(served.kind)}</small>"
            ),
            status_chip(served.status),
            *(Html(f'<span class="whole">{escape(figure)}</span>') for figure in _figures(ranking, served)),
        )
        for served in ranking.ran
    ]
    return render_table(ranking.subject, _COLUMNS, rows, note=_NOTE)


def _breakable(server: str) -> Html:
    """Return an address that a narrow column may break where one of its names ends."""
    return Html(_END_OF_NAME.sub(r"\g<0><wbr>", escape(server)))


def list_servers(ranking: Ranking) -> Iterator[Sequence[str]]:
    """Return the same rows as text, for Markdown."""
    for served in ranking.ran:
        who = f"{served.server} ({served.name}, {served.kind})"
        yield (who, str(served.status), *_figures(ranking, served))


def server_columns() -> Sequence[str]:
    """Return the heads of the columns of `list_servers`."""
    return _COLUMNS


def _figures(ranking: Ranking, served: Served) -> Sequence[str]:
    return (
        format_percent(_share(ranking, served, "in")),
        format_percent(_share(ranking, served, "out")),
        format_bytes(served.kv_bytes),
        format_seconds(served.wake_s),
        format_seconds(served.wake_hot_s),
        format_seconds(served.wake_cold_s),
        *(("–",) * 4 if served.crowd is None else _tell(served.crowd)),
    )


def _tell(crowd: Crowd) -> Sequence[str]:
    return (
        "unknown" if crowd.held is None else f"{crowd.held:.0f}",
        "unknown" if crowd.times is None else f"{crowd.times:.1f} times",
        format_seconds(crowd.wake_p99_s),
        format_percent(crowd.offered_load),
    )


def _share(ranking: Ranking, served: Served, way: str) -> float | None:
    moved, ceiling = served.moved_bytes_per_s[way], ranking.ceilings_bytes_per_s.get(way)
    return None if moved is None or ceiling is None else moved / ceiling
