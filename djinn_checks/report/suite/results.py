"""The figures of a finished suite as Markdown, for a README: each from the outcome that its report shows.

A README that quotes a figure by hand says something else one day. This text is made from the outcomes and stands
between two marks: all of it in the README of the suite's own folder, the verdicts alone on the front page. A test
holds both against the outcomes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from djinn_checks.errors import OutcomeError
from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.gate.reports import ask, explain, list_unmet, see
from djinn_checks.report.suite.league import League, league_columns, list_league, rank_systems
from djinn_checks.report.suite.markdown import draw_table, plain
from djinn_checks.report.suite.no_suite import say_no_suite
from djinn_checks.report.suite.servers import Ranking, list_servers, rank_servers, server_columns, tell_ceilings
from djinn_checks.report.summary import tell
from djinn_checks.units import GB

_FIGURES: Mapping[str, Sequence[str]] = {
    "logits": ("prefill_bit_equal", "decode_bit_equal", "weights_streamed", "peak_device_memory"),
    "pcie": ("rx_above_threshold", "rx_of_ceiling", "time_per_pass_vs_limit", "claimed_vs_counted"),
    "agents": (
        "kv_left_device",
        "swap_out_of_ceiling",
        "restore_of_ceiling",
        "decode_of_generate",
        "text_equals_twin",
        "crowd_texts_equal_twins",
        "crowd_within_budget",
        "crowd_held_at_once",
        "restore_p99",
        "wake_p99",
    ),
    "host": ("alone_like_others", "alone_of_width", "together_at_least_one", "counted_vs_copied"),
}
"""What is quoted of each check, by the criterion's name; of the faults, their summary says all."""


def render_verdicts(
    folder: str, outcomes: Mapping[str, Outcome], unreadable: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return one row for each report of a suite as Markdown.

    Args:
        folder: where the reports lie, as the text's reader gets there; links are made from it.
        outcomes: by the name of the params file.
        unreadable: why an outcome that is there cannot be read, by the names of those.

    Raises:
        OutcomeError: there is no outcome.
    """
    if not outcomes and not unreadable:
        raise OutcomeError(say_no_suite(Path(folder)))
    rows = [
        (_link(folder, name), _verdict(outcome.status), plain(_summarize(outcome)), _commit(outcome))
        for name, outcome in sorted(outcomes.items())
    ]
    rows += [(plain(name), "unknown", plain(why), "unknown") for name, why in sorted(unreadable.items())]
    return f"{_machine(outcomes)}\n\n{draw_table(('Report', 'Verdict', 'What was found', 'Commit'), rows)}\n"


def _summarize(outcome: Outcome) -> str:
    return tell(outcome) if outcome.check == "faults" else outcome.summary


def render_results(
    folder: str, outcomes: Mapping[str, Outcome], unreadable: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return the verdicts of a suite, its figures, and every row that does not hold; see `render_verdicts`."""
    verdicts = render_verdicts(folder, outcomes, unreadable)
    figures = [row for name, outcome in sorted(outcomes.items()) for row in _figures(folder, name, outcome)]
    parts = [verdicts]
    if figures:
        parts.append(f"{draw_table(('Report', 'Criterion', 'Observed', 'Asked for', ''), figures)}\n")
    unmet = [row for name, outcome in sorted(outcomes.items()) for row in _unmet(folder, name, outcome)]
    if unmet:
        columns = ("Report", "What does not hold", "Observed", "Asked for", "Why", "")
        parts.append(f"{draw_table(columns, unmet)}\n")
    parts += [_league(league) for league in rank_systems(outcomes)]
    parts += [_servers(ranking) for ranking in rank_servers(outcomes)]
    return "\n".join(parts)


def _league(league: League) -> str:
    ceiling = f"{league.ceiling_bytes_per_s / GB:.2f} GB/s"
    rows = [tuple(plain(cell) for cell in row) for row in list_league(league)]
    return f"{plain(league.subject)}; common ceiling {ceiling}:\n\n{draw_table(league_columns(), rows)}\n"


def _servers(ranking: Ranking) -> str:
    rows = [tuple(plain(cell) for cell in row) for row in list_servers(ranking)]
    return f"{plain(ranking.subject)}. {tell_ceilings(ranking)}\n\n{draw_table(server_columns(), rows)}\n"


def _figures(folder: str, name: str, outcome: Outcome) -> Iterator[Sequence[str]]:
    wanted = _FIGURES.get(outcome.check, ())
    for row in sorted((row for row in outcome.criteria if row.name in wanted), key=lambda row: wanted.index(row.name)):
        if row.status is not Status.SKIP:
            yield (
                _link(folder, name), plain(row.title), plain(see(row)),
                plain(ask(row)), _verdict(row.status),
            )  # fmt: skip


def _unmet(folder: str, name: str, outcome: Outcome) -> Iterator[Sequence[str]]:
    for row in list_unmet(outcome):
        informs = "" if row.required else ", informs"
        yield (
            _link(folder, name), plain(row.title), plain(see(row)), plain(ask(row)), plain(explain(row)),
            f"{_verdict(row.status)}{informs}",
        )  # fmt: skip


def _machine(outcomes: Mapping[str, Outcome]) -> str:
    """Return one sentence about machine and software; "or" stands between those that differ."""
    known = [outcome.environment for outcome in outcomes.values() if outcome.environment]
    gpus = _distinct(_processor(machine) for machine in known)
    drivers = _distinct((machine.get("gpu") or {}).get("driver") for machine in known)
    torch = _distinct((machine.get("packages") or {}).get("torch") for machine in known)
    gpus, drivers, torch = (plain(words) for words in (gpus, drivers, torch))
    driver = f", driver {drivers}" if drivers else ""
    return f"Measured on {gpus or 'an unknown machine'}{driver}, PyTorch {torch or 'unknown'}."


def _processor(machine: Mapping[str, Any]) -> str:
    """Return what a check ran on: the GPU, or the CPU where there was none."""
    if gpu := (machine.get("gpu") or {}).get("name"):
        return str(gpu)
    cpu = (machine.get("cpu") or {}).get("model")
    return f"a CPU: {cpu}" if cpu else "a CPU of an unknown name" if machine.get("device") == "cpu" else ""


def _commit(outcome: Outcome) -> str:
    """Return the commit that a report was made from; reports of one folder may be of several."""
    source = (outcome.environment or {}).get("source") or {}
    changed = " and changes" if source.get("dirty") else ""
    return f"{plain(str(source.get('commit') or 'unknown')[:10])}{changed}"


def _distinct(values: Iterator[str | None]) -> str:
    return " or ".join(dict.fromkeys(value for value in values if value))


def _verdict(status: Status) -> str:
    return f"**{status.value}**"


def _link(folder: str, name: str) -> str:
    file = f"{name}.html" if folder == "." else f"{folder}/{name}.html"
    return f"[{plain(name)}]({quote(file)})"
