"""The rows about speed: a KV that moves as fast as the link carries it, and tokens as fast as `generate()` gives them.

A server's own clock includes what the link does not see, as the digests, and counts as far as it speaks against the
server. That a move took less than its bytes were on the link, by the link's counters, nobody can say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from djinn_checks.checks.agent_evidence import AgentsEvidence
from djinn_checks.checks.agent_pace import Pace
from djinn_checks.outcome import Criterion, judge, skip
from djinn_checks.units import format_seconds

_GENERATE_RATIO = 1.1


def judge_moves(evidence: AgentsEvidence) -> list[Criterion]:
    """Return the rows about swap-out and restore."""
    return [
        _of_ceiling(evidence, "out", "swap_out_of_ceiling", "The KV leaves at the link's speed"),
        _of_ceiling(evidence, "in", "restore_of_ceiling", "The KV comes back at the link's speed"),
    ]


def judge_decode(evidence: AgentsEvidence) -> Criterion:
    """Return the row about the time of a token."""
    name, title, unit = "decode_of_generate", "A token takes the server no longer than generate()", "times"
    pace = evidence.pace
    if pace is None:
        return skip(name, title, unit=unit, required=False, reason=evidence.why_no_pace)
    return judge(
        name,
        title,
        pace.ratio,
        "<=",
        _GENERATE_RATIO,
        unit=unit,
        evidence=_pace_evidence(pace),
        missing=pace.reason,
        required=False,
    )


def _of_ceiling(evidence: AgentsEvidence, direction: str, name: str, title: str) -> Criterion:
    unit = "share of ceiling"
    if evidence.link is None:
        return skip(name, title, unit=unit, reason=evidence.why_no_link)
    ceiling = evidence.link.ceilings[direction].bytes_per_s
    counted, told = evidence.link_rates(direction), evidence.swap_rates(direction)
    by_counters = median(counted) / ceiling if counted else None
    by_server = median(told) / ceiling if told else None
    lower = by_counters if by_counters is None or by_server is None else min(by_counters, by_server)
    return judge(
        name,
        title,
        lower,
        ">=",
        evidence.params.swap_of_ceiling,
        unit=unit,
        evidence=f"the lower of two medians: {_share(by_counters)} by the counters of the link, {_share(by_server)} by "
        f"the server's clock, digest included; the ceiling is {ceiling / 1e9:.1f} GB/s{_wait(evidence, direction)}",
        missing=_why_untimed(evidence, direction),
        failed="are the buffers pinned, and the copies in one batch?",
    )


def _share(of_ceiling: float | None) -> str:
    return "unknown" if of_ceiling is None else f"{of_ceiling:.1%}"


def _wait(evidence: AgentsEvidence, direction: str) -> str:
    waits = [one.after.allocate_s for one in evidence.sleeper.sleeps if one.after and one.after.allocate_s]
    return f"; memory for it took {format_seconds(max(waits))} more" if direction == "in" and waits else ""


def _why_untimed(evidence: AgentsEvidence, direction: str) -> str:
    if evidence.counted(direction) is not None:
        return "in one of the sleeps the link did not carry the session's KV, so there is no move to be timed"
    why = evidence.link.reason if evidence.link else ""
    return f"only the server's own clock says how long it took: {why or 'the counters have holes in that time'}"


def _pace_evidence(pace: Pace) -> str:
    if not pace.server_s:
        return "no rounds"
    return (
        f"{_both(pace, min)} a token in the fastest of {len(pace.server_s)} rounds each, in turns on the same GPU, "
        f"no log-probabilities on either side; in the median round, neighbours included, {_both(pace, median)}"
    )


def _both(pace: Pace, of: Callable[[Sequence[float]], float]) -> str:
    return f"{format_seconds(of(pace.server_s))} and {format_seconds(of(pace.generate_s))}"
