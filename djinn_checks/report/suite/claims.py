"""The paper's claims, and what a suite found about each: green only where the evidence is about that claim.

A claim is shown as PASS when its own criteria were found and hold, the run was at least as demanding as the
claim, and the check as a whole is PASS: perfect logits of a system that streamed nothing support no claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any, NamedTuple

from djinn_checks.outcome import Criterion, Outcome, Status, worst
from djinn_checks.report.tables import (
    Html,
    describe_subject,
    render_quantity,
    render_table,
    render_threshold,
    status_chip,
)
from djinn_checks.units import format_bytes, format_seconds


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One sentence of the paper, and where it is decided."""

    text: str
    check: str
    """The check that decides it."""
    expected: str
    """What has to be seen, with the tolerance, in words."""
    criteria: tuple[str, ...]
    """Names of the criteria that decide it."""
    at_least: Mapping[str, float] = field(default_factory=dict)
    """The smallest parameters that the claim is about; a run with less does not show it."""
    at_most: Mapping[str, float] = field(default_factory=dict)
    """The largest, likewise."""


CLAIMS: tuple[Claim, ...] = (
    Claim(
        text="Streaming changes no logit",
        check="logits",
        expected="every logit bit-equal to the resident model's, in prefill and decode; no tolerance",
        criteria=("prefill_bit_equal", "decode_bit_equal"),
    ),
    Claim(
        text="The outputs are equivalent to the resident model's",
        check="logits",
        expected="at every position an L2 distance below 0.1, or the same 5 most likely tokens",
        criteria=("prefill_l2_or_top_k", "decode_l2_or_top_k"),
        at_least={"top_k": 5},
        at_most={"l2_threshold": 0.1},
    ),
    Claim(
        text="The PCIe link is full while the model runs: a flat line",
        check="pcie",
        expected="more than 20,000 MB/s in more than 80\u00a0% of the windows, over at least 10\u00a0s",
        criteria=("rx_above_threshold",),
        at_least={"threshold_mb_per_s": 20_000, "threshold_share": 0.8, "duration_s": 10},
    ),
    Claim(
        text="An agent survives a sleep of 30\u00a0s",
        check="agents",
        expected="every turn before and after every sleep is answered; sleeps of 30\u00a0s and more",
        criteria=("survives_sleep",),
        at_least={"sleep_s": 30},
    ),
    Claim(
        text="A sleeping agent's KV cache is swapped out and restored",
        check="agents",
        expected="at every sleep its bytes leave the device, and as many, with the same digest, come back",
        criteria=("kv_left_device", "swaps_counted", "kv_returned", "restores_counted", "bytes_equal", "digest_equal"),
    ),
    Claim(
        text="An agent that slept says what it would have said without sleep",
        check="agents",
        expected="after every sleep the same text as a twin that never slept; no tolerance",
        criteria=("text_equals_twin",),
    ),
    Claim(
        text="Many agents share a device that cannot hold their KV caches",
        check="agents",
        expected="80 sessions and more, all open at once; more KV than the budget, and the device's memory grows by "
        "1.1\u00a0times the budget at most; every answer its twin's",
        criteria=(
            "crowd_answered",
            "crowd_overcommits",
            "crowd_held_at_once",
            "crowd_within_budget",
            "crowd_texts_equal_twins",
        ),
        at_least={"agents": 80},
    ),
)

LIMITS = (
    "A verdict holds for the machine, the software, the model, the data type, the prompts and the parameters that "
    "its report names. Nothing is said about others, nor about tomorrow's run of the same.",
    "PASS means that a claim was measured and holds here. It is no proof that the system has no other fault, and "
    "no statement about speed beyond the criteria.",
    "The weight witness sees weights that are used from Python, in forwards that are drawn at random. A compiled or "
    "graph-replayed system is INCONCLUSIVE there; a defect in few other forwards must show in logits or counters.",
    "A bit flipped in a weight below what the logits resolve changes no logit: only the witness sees it.",
    "PCIe counters see the link and not its purpose. The link was quiet before a run; other traffic of the same size "
    "and time as the claim, during it, would pass for the claim.",
    "Without a PCIe GPU, and for the replay of a recorded trace, nothing is claimed about this machine's link.",
    "That text stays coherent is held against a twin on the same machine. No claim is made about its quality.",
)
"""What a suite does not show, whatever its verdicts."""

_MEMORY = {"vram_limit": "GPU", "peak_device_memory": "GPU", "host_memory": "host"}
"""Criteria whose observation is a peak of memory, in bytes."""


class Finding(NamedTuple):
    """What an outcome says about a claim."""

    status: Status
    notes: tuple[str, ...]
    """Why it is not PASS, beyond what its criteria say."""


def judge_claim(claim: Claim, outcome: Outcome) -> Finding:
    """Return what an outcome of the claim's check says about the claim; PASS needs all of its evidence."""
    if outcome.status is Status.ERROR:
        return Finding(Status.ERROR, ("the check did not finish",))
    found = _criteria(claim, outcome)
    statuses = [row.status for row in found]
    notes = []
    if weaker := _weaker(claim, outcome.params):
        statuses.append(Status.INCONCLUSIVE)
        notes.append(f"the run asked for less than the claim: {', '.join(weaker)}")
    elif absent := sorted(set(claim.criteria) - {row.name for row in found}):
        statuses.append(Status.INCONCLUSIVE)
        notes.append(f"not in its outcome: {', '.join(absent)}")
    status = worst(statuses)
    if status is not Status.PASS or outcome.status is Status.PASS:
        return Finding(status, tuple(notes))
    first = next((row.name for row in outcome.failed_first if row.required), "no criterion")
    return Finding(outcome.status, (f"these hold, but the check is {outcome.status}: {first}",))


def tabulate_claims(outcomes: Mapping[str, Outcome], disk_bytes: Mapping[str, int]) -> Html:
    """Return every claim with its check, what is expected, what was observed, and what finding out cost.

    Args:
        outcomes: by the name of the params file.
        disk_bytes: what each left on disk, by the same names.
    """
    rows: list[Sequence[Any]] = []
    for claim in CLAIMS:
        ran = [name for name, outcome in outcomes.items() if outcome.check == claim.check]
        rows += [_row(claim, name, outcomes[name], disk_bytes.get(name)) for name in ran]
        if not ran:
            rows.append((claim.text, claim.check, "not run", claim.expected, "not run", ""))
    columns = ("The paper's claim", "Check", "Verdict", "Expected", "Observed", "Cost")
    note = "A claim is PASS only if its check as a whole is, and if the run asked for no less than the claim."
    return render_table("Claims", columns, rows, note=note, numeric=False)


def render_limits() -> Html:
    """Return what is not claimed."""
    items = "".join(f"<li>{escape(limit)}</li>" for limit in LIMITS)
    return Html(f'<section class="markdown"><h2>What is not claimed</h2><ul>{items}</ul></section>')


def _row(claim: Claim, name: str, outcome: Outcome, disk_bytes: int | None) -> Sequence[Any]:
    finding = judge_claim(claim, outcome)
    subject = describe_subject(outcome)
    check = Html(
        f'<span class="whole">{escape(name)}</span>' + (f"<small>{escape(subject)}</small>" if subject else "")
    )
    observed = [_observed(row) for row in _criteria(claim, outcome)]
    observed += [f"<em>{escape(note)}</em>" for note in finding.notes]
    cost = _cost(outcome, disk_bytes)
    seen = Html("".join(f'<div class="item">{item}</div>' for item in observed))
    return (claim.text, check, status_chip(finding.status), claim.expected, seen, cost)


def _criteria(claim: Claim, outcome: Outcome) -> list[Criterion]:
    return [row for row in outcome.criteria if row.name in claim.criteria]


def _observed(row: Criterion) -> str:
    name = f"<code>{escape(row.name)}</code>"
    if row.status is Status.SKIP:
        return f"{name} not asked for: {escape(row.reason)}"
    expected = render_threshold(row if row.unit.startswith(("share", "bytes")) else replace(row, unit=""))
    return f"{name} {render_quantity(row.observed, row.unit)} ({expected})"


def _weaker(claim: Claim, params: Mapping[str, Any]) -> list[str]:
    """Return the parameters of a run that ask for less than the claim says; an unknown one asks for less."""
    low = [f"{name} = {params.get(name)}, at least {least:g}" for name, least in claim.at_least.items()
           if not _number(params, name, least - 1) >= least]  # fmt: skip
    high = [f"{name} = {params.get(name)}, at most {most:g}" for name, most in claim.at_most.items()
            if not _number(params, name, most + 1) <= most]  # fmt: skip
    return low + high


def _number(params: Mapping[str, Any], name: str, otherwise: float) -> float:
    value = params.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise


def _cost(outcome: Outcome, disk_bytes: int | None) -> Html:
    seconds = outcome.timings.get("run_s", outcome.timings.get("total_s"))
    parts = [format_seconds(seconds)]
    parts += [f"{format_bytes(row.observed)} {_MEMORY[row.name]}" for row in outcome.criteria
              if row.name in _MEMORY and isinstance(row.observed, int | float)]  # fmt: skip
    parts += [] if disk_bytes is None else [f"{format_bytes(disk_bytes)} disk"]
    return Html(f'<span class="whole">{"<br>".join(escape(part) for part in parts)}</span>')
