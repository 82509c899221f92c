"""The rows about speed: a KV that moves as fast as the link carries it, and tokens as fast as `generate()` gives them.

A move is timed by the link's counters, which give a least and a greatest time. With the greatest it has to be fast
enough to PASS, and with the least too slow to FAIL. A server's own clock includes what the link does not see, as the
digests, and counts as far as it speaks against the server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.pace import Pace
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
    unit, bar = "share of ceiling", evidence.params.swap_of_ceiling
    if evidence.link is None:
        return skip(name, title, unit=unit, reason=evidence.why_no_link)
    ceiling = evidence.link.ceilings[direction].bytes_per_s
    told = evidence.swap_rates(direction)
    by_server = median(told) / ceiling if told else None
    lowest, highest, why = _by_counters(evidence, direction, ceiling)
    observed = _decide(lowest, highest, by_server, bar)
    if lowest is not None and highest is not None:
        why = f"between {lowest:.1%} and {highest:.1%}, as the counters are not read more often"
    return judge(
        name,
        title,
        observed,
        ">=",
        bar,
        unit=unit,
        evidence=f"medians: {_share(lowest)} by the counters of the link, {_share(by_server)} by the server's clock, "
        f"digest included; the ceiling is {ceiling / 1e9:.1f} GB/s{_wait(evidence, direction)}",
        missing=why,
        failed="are the buffers pinned, and the copies in one batch?",
    )


def _by_counters(evidence: AgentsEvidence, direction: str, ceiling: float) -> tuple[float | None, float | None, str]:
    """Return the lowest and the highest share of the ceiling that agree with the counters, or why there is none."""
    times, why = evidence.move_times(direction)
    if not times:
        return None, None, why
    sizes = [evidence.kv_bytes(sleep.tokens) for sleep in evidence.sleeper.sleeps]
    lowest = median(size / one.greatest_s for size, one in zip(sizes, times, strict=True))
    highest = median(size / one.least_s for size, one in zip(sizes, times, strict=True))
    return lowest / ceiling, highest / ceiling, ""


def _decide(lowest: float | None, highest: float | None, by_server: float | None, bar: float) -> float | None:
    """Return the share that is judged, None if it is open."""
    if by_server is not None and by_server < bar:
        return by_server
    if lowest is None or highest is None or lowest < bar <= highest:
        return None
    counted = highest if highest < bar else lowest
    return counted if by_server is None else min(counted, by_server)


def _share(of_ceiling: float | None) -> str:
    return "unknown" if of_ceiling is None else f"{of_ceiling:.1%}"


def _wait(evidence: AgentsEvidence, direction: str) -> str:
    waits = [one.after.allocate_s for one in evidence.sleeper.sleeps if one.after and one.after.allocate_s]
    return f"; memory for it took {format_seconds(max(waits))} more" if direction == "in" and waits else ""


def _pace_evidence(pace: Pace) -> str:
    if not pace.server_s:
        return "no rounds"
    return (
        f"{_both(pace, min)} a token in the fastest of {len(pace.server_s)} rounds each, in turns on the same GPU, "
        f"no log-probabilities on either side; in the median round, neighbours included, {_both(pace, median)}"
    )


def _both(pace: Pace, of: Callable[[Sequence[float]], float]) -> str:
    return f"{format_seconds(of(pace.server_s))} and {format_seconds(of(pace.generate_s))}"
