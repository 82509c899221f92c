"""The paper's claims, and what a suite found about each: green only where the evidence is about that claim.

A claim is shown as PASS when its own criteria were found and hold, the run was at least as demanding as the
claim, and the check as a whole is PASS: perfect logits of a system that streamed nothing support no claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple
from urllib.parse import quote

from djinn_checks.outcome import Criterion, Outcome, Status, worst
from djinn_checks.report.criteria_table import render_observed
from djinn_checks.report.tables import (
    Html,
    describe_subject,
    render_table,
    status_chip,
)
from djinn_checks.units import format_bytes


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


_WRONG = (Status.FAIL, Status.ERROR)
"""What a run of less than the claim may say of it all the same."""
_SHOWN = 2
"""Criteria that a row of the claims shows in words where all of them hold."""


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


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a suite says about a claim; status None where no run was about it."""

    claim: Claim
    status: Status | None
    decided_by: str
    """Name of the run that made the status what it is; empty without one."""
    runs: tuple[str, ...]
    """Names of all runs that were about the claim, that one first."""
    notes: tuple[str, ...] = ()


def answer_claims(own: Mapping[str, Outcome]) -> list[Answer]:
    """Return one answer to each claim, from all runs of what is under test that asked for no less than it says.

    Runs that asked for less decide nothing where another asked for enough, unless they show that the claim is wrong.

    Args:
        own: outcomes of what is under test, by the name of the params file.
    """
    return [_answer(claim, {name: found for name, found in own.items() if found.check == claim.check})
            for claim in CLAIMS]  # fmt: skip


def _answer(claim: Claim, runs: Mapping[str, Outcome]) -> Answer:
    if not runs:
        return Answer(claim=claim, status=None, decided_by="", runs=())
    found = {name: judge_claim(claim, outcome) for name, outcome in runs.items()}
    enough = [name for name in runs if not _weaker(claim, runs[name].params) or found[name].status in _WRONG]
    about = enough or list(runs)
    status = worst(found[name].status for name in about)
    about.sort(key=lambda name: found[name].status is not status)
    return Answer(claim=claim, status=status, decided_by=about[0], runs=tuple(about), notes=found[about[0]].notes)


def tabulate_claims(outcomes: Mapping[str, Outcome]) -> Html:
    """Return every claim once: its verdict, what was seen, and the reports that it rests on.

    Args:
        outcomes: of what is under test, by the name of the params file.
    """
    rows = [_row(answer, outcomes) for answer in answer_claims(outcomes)]
    columns = ("The paper's claim", "Verdict", "Seen", "Asked for", "Report")
    note = "A claim is PASS only if its check as a whole is, and if the run asked for no less than the claim."
    return render_table("Claims", columns, rows, note=note, numeric=False)


def tabulate_claims_by_host(hosts: Mapping[str, Mapping[str, Outcome]]) -> Html:
    """Return every claim once, and beside it what was found on each host: its verdict, what was seen, and the report.

    Args:
        hosts: outcomes of what is under test, by the name of the params file, by host.
    """
    answers = {host: answer_claims(own) for host, own in hosts.items()}
    rows = [
        (claim.text, *(_cell(answers[host][place], own) for host, own in hosts.items()), claim.expected)
        for place, claim in enumerate(CLAIMS)
    ]
    note = "Each host answers for itself. A claim is PASS there only if its check is, and the run asked for no less."
    columns = ("The paper's claim", *hosts, "Asked for")
    return render_table("Claims, host by host", columns, rows, note=note, numeric=False)


def _cell(answer: Answer, outcomes: Mapping[str, Outcome]) -> Html:
    if answer.status is None:
        return Html("not run")
    _, chip, seen, _, links = _row(answer, outcomes)
    return Html(f'<div class="item">{chip}</div>{seen}{links}')


def render_limits() -> Html:
    """Return what is not claimed."""
    items = "".join(f"<li>{escape(limit)}</li>" for limit in LIMITS)
    return Html(f'<section class="markdown"><h2>What is not claimed</h2><ul>{items}</ul></section>')


def _row(answer: Answer, outcomes: Mapping[str, Outcome]) -> Sequence[Any]:
    if answer.status is None:
        return (answer.claim.text, "not run", "", answer.claim.expected, "")
    outcome = outcomes[answer.decided_by]
    notes = [f"<em>{escape(note)}</em>" for note in answer.notes]
    seen = Html("".join(f'<div class="item">{item}</div>' for item in [*_seen(answer.claim, outcome), *notes]))
    links = Html("".join(f'<div class="item">{_report(name, outcomes[name])}</div>' for name in answer.runs))
    return (answer.claim.text, status_chip(answer.status), seen, answer.claim.expected, links)


def _report(name: str, outcome: Outcome) -> str:
    subject = describe_subject(outcome)
    link = f'<a class="whole" href="./{escape(quote(f"{name}.html"))}">{escape(name)}</a>'
    return link + (f"<small>{escape(subject)}</small>" if subject else "")


def _seen(claim: Claim, outcome: Outcome) -> list[str]:
    """Return what was seen: of what holds the first row, which is the claim's own; of what does not, every row."""
    rows = [row for name in claim.criteria for row in outcome.criteria if row.name == name]
    failed = [row for row in rows if row.status is not Status.PASS]
    if failed:
        return [_observed(row, outcome) for row in failed]
    shown = [_observed(row, outcome) for row in rows[:_SHOWN]]
    more = len(rows) - len(shown)
    return [*shown, f"and {more} more, all of which hold"] if more else shown


def _criteria(claim: Claim, outcome: Outcome) -> list[Criterion]:
    return [row for row in outcome.criteria if row.name in claim.criteria]


def _observed(row: Criterion, outcome: Outcome) -> str:
    if row.status is Status.SKIP:
        return f"{escape(row.title)}: not asked for, {escape(row.reason)}"
    return f"{escape(row.title)}: <strong>{render_observed(outcome, row)}</strong>"


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


def render_cost(outcome: Outcome, disk_bytes: int | None) -> Html:
    """Return what a run took of memory and disk, where it was measured."""
    parts = [f"{format_bytes(row.observed)} {_MEMORY[row.name]}" for row in outcome.criteria
             if row.name in _MEMORY and isinstance(row.observed, int | float)]  # fmt: skip
    parts += [] if disk_bytes is None else [f"{format_bytes(disk_bytes)} disk"]
    return Html("<br>".join(escape(part) for part in parts))
