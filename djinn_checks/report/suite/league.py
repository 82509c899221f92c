"""The systems of a suite beside each other: one model, one kind of link, one ceiling.

Each PCIe run measures the ceiling of its own minutes. Here all are held against the highest of them, since what the
link could do in one run it could do in the next: a system whose run found a disturbed ceiling gains nothing by it. How
far apart the ceilings were is said. Whether the logits are bit-equal is looked up in the suite's logits runs of the
same system and model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from djinn_checks.measurements import pcie
from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.page import render_page
from djinn_checks.report.tables import Html, link_beside, render_table, status_chip
from djinn_checks.units import GB, MB, format_bytes, format_percent, format_seconds

PAGE = "league.html"
"""Beside the front page of a suite with two systems or more."""

_FULL = 0.9
"""Of the ceiling: a window with so much is full, as in the criterion `rx_of_ceiling`."""
_BIT_EQUAL = ("prefill_bit_equal", "decode_bit_equal")

PUBLISHED: Mapping[str, str] = {
    "accelerate": "OPT-30B on a T4, batch 8: 0.62 tokens/s (FlexGen's benchmark table)",
    "deepspeed": "OPT-30B on a T4, batch 4: 0.60 tokens/s (FlexGen's benchmark table)",
    "diffusers": "FLUX.1-dev, groups of leaves: 1.86 s a step for 0.49 s without (diffusers/benchmarks on the hub)",
    "flextensor": "Wan2.2 on an RTX PRO 6000: below 1 % more time, two thirds less memory (its README, 0.5.0)",
}
"""What is published of a system's speed, by its name; of models, GPUs or batches other than those here."""

_COLUMNS = (
    "System", "Verdict", "Of the limit", "Full windows", "Received", "Time per pass", "Bit-equal", "Device memory",
    "Host memory", "Opens in", "Published",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One system in the league. None is unknown."""

    system: str
    name: str
    """Of the run, as its report is called."""
    status: Status
    of_limit: float | None
    """(M - C) / B over the mean time per pass, B the common ceiling."""
    full_windows: float | None
    """Share of the windows with at least 0.9 of the common ceiling; lost windows are not among them."""
    bytes_per_s: float | None
    """Mean payload received."""
    seconds_per_pass: float | None
    bit_equal: bool | None
    device_bytes: int | None
    """Peak, the CUDA context and whatever else was on the device included."""
    host_bytes: int | None
    """Growth of the process's resident memory."""
    open_s: float | None


@dataclass(frozen=True, kw_only=True)
class League:
    """Systems that ran the same model over the same kind of link, the nearest to the link's limit first."""

    subject: str
    """Model, data type, device budget and link."""
    ceiling_bytes_per_s: float
    ceiling_spread: float
    """(highest - lowest) / lowest of the runs' ceilings."""
    standings: tuple[Standing, ...]


def rank_systems(outcomes: Mapping[str, Outcome]) -> list[League]:
    """Return a league for each subject that two systems or more of a suite ran.

    Args:
        outcomes: by the name of the params file.
    """
    subjects: dict[str, dict[str, Outcome]] = {}
    for name, outcome in outcomes.items():
        if outcome.check == "pcie" and pcie.read(outcome.measurements).get("passes"):
            subjects.setdefault(_subject(outcome), {})[name] = outcome
    return [
        _rank(subject, ran, outcomes)
        for subject, ran in subjects.items()
        if len({outcome.params.get("system") for outcome in ran.values()}) > 1
    ]


def _subject(outcome: Outcome) -> str:
    params, link = outcome.params, pcie.read(outcome.measurements)["link"]
    budget = params.get("budget_gb")
    share = params.get("budget_fraction")
    kept = f"{budget:g} GB" if isinstance(budget, int | float) else f"{share} of the weights"
    gpu = ((outcome.environment or {}).get("gpu") or {}).get("name") or link["label"]
    return f"{params.get('model')}, {params.get('dtype')}, device budget {kept}, {gpu}"


def _rank(subject: str, ran: Mapping[str, Outcome], outcomes: Mapping[str, Outcome]) -> League:
    ceilings = [pcie.read(outcome.measurements)["link"]["ceiling_bytes_per_s"] for outcome in ran.values()]
    ceiling = max(ceilings)
    standings = [_stand(name, outcome, ceiling, outcomes) for name, outcome in ran.items()]
    standings.sort(key=lambda standing: -(standing.of_limit or 0.0))
    return League(
        subject=subject,
        ceiling_bytes_per_s=ceiling,
        ceiling_spread=ceiling / min(ceilings) - 1,
        standings=tuple(standings),
    )


def _stand(name: str, outcome: Outcome, ceiling: float, outcomes: Mapping[str, Outcome]) -> Standing:
    measured = pcie.read(outcome.measurements)
    passes, needed = measured.get("passes"), measured["limit"]["needed_bytes"]
    windows, counted = measured.get("windows"), measured["bytes"]["counted"]
    duration = windows["duration_s"] if windows else None
    mean_s = passes["mean_s"] if passes else None
    memory = measured.get("memory")
    return Standing(
        system=str(outcome.params.get("system")),
        name=name,
        status=outcome.status,
        of_limit=None if needed is None or not mean_s else needed / ceiling / mean_s,
        full_windows=_full_share(windows, ceiling),
        bytes_per_s=None if counted is None or not duration else counted / duration,
        seconds_per_pass=mean_s,
        bit_equal=_bit_equal(outcome, outcomes),
        device_bytes=memory["peak_device_bytes"] if memory else None,
        host_bytes=memory["host_growth_bytes"] if memory else None,
        open_s=passes["open_s"] if passes else None,
    )


def _full_share(windows: pcie.Windows | None, ceiling: float) -> float | None:
    seen = [rate for rate in (windows["rx_mb_per_s"] if windows else ()) if rate is not None]
    return sum(rate * MB >= _FULL * ceiling for rate in seen) / len(seen) if seen else None


def _bit_equal(outcome: Outcome, outcomes: Mapping[str, Outcome]) -> bool | None:
    """Return whether the suite's logits runs of the same system and model found every logit equal."""
    same = [
        other for other in outcomes.values()
        if other.check == "logits" and all(
            other.params.get(key) == outcome.params.get(key) for key in ("system", "model", "dtype")
        )
    ]  # fmt: skip
    found = [row.status for other in same for row in other.criteria if row.name in _BIT_EQUAL]
    decided = [status is Status.PASS for status in found if status in (Status.PASS, Status.FAIL)]
    return all(decided) if decided and len(decided) == len(found) else None


def render_league(title: str, outcomes: Mapping[str, Outcome]) -> str | None:
    """Return the page as HTML, self-contained, or None if no two systems ran the same."""
    leagues = rank_systems(outcomes)
    if not leagues:
        return None
    parts = [part for league in leagues for part in (_introduce(league), tabulate_league(league))]
    return render_page(f"League of systems: {title}", parts)


def _introduce(league: League) -> str:
    best = league.standings[0]
    return (
        f"<p>{escape(league.subject)}. The common ceiling is {league.ceiling_bytes_per_s / GB:.2f} GB/s, the highest "
        f"that any of these runs measured, {league.ceiling_spread:.1%} above the lowest. Nearest to the link's limit: "
        f"<strong>{escape(best.system)}</strong>, {format_percent(best.of_limit)}.</p>\n"
    )


def tabulate_league(league: League) -> Html:
    """Return one row for each system, the nearest to the link's limit first."""
    rows = [
        (
            link_beside(f"{standing.name}.html", standing.system),
            status_chip(standing.status),
            *_figures(standing),
            PUBLISHED.get(standing.system, ""),
        )
        for standing in league.standings
    ]
    note = (
        "The limit is the time that the bytes need which the budget cannot hold; a system that encodes its weights can "
        f"be above it. A window is full from {_FULL:.0%} of the ceiling. What is published is of other models and GPUs."
    )
    return render_table(league.subject, _COLUMNS, rows, note=note)


def list_league(league: League) -> Iterator[Sequence[str]]:
    """Return the same rows as text, for Markdown."""
    for standing in league.standings:
        yield (standing.system, str(standing.status), *_figures(standing), PUBLISHED.get(standing.system, ""))


def league_columns() -> Sequence[str]:
    """Return the heads of the columns of `list_league`."""
    return _COLUMNS


def _figures(standing: Standing) -> Sequence[str]:
    equal = {True: "yes", False: "no", None: "unknown"}[standing.bit_equal]
    rate = standing.bytes_per_s
    return (
        format_percent(standing.of_limit),
        format_percent(standing.full_windows),
        "unknown" if rate is None else f"{rate / GB:.1f} GB/s",
        format_seconds(standing.seconds_per_pass),
        equal,
        format_bytes(standing.device_bytes),
        format_bytes(standing.host_bytes),
        format_seconds(standing.open_s),
    )
