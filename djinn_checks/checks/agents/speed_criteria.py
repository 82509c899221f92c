"""The rows about speed: a KV that moves as fast as the link carries it, and tokens as fast as `generate()` gives them.

A move is timed by the link's counters, which give a least and a greatest time. With the greatest it has to be fast
enough to PASS, and with the least too slow to FAIL. A server's own clock includes what the link does not see, as the
digests, and counts as far as it speaks against the server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.token_pace import TokenPace
from djinn_checks.outcome import Criterion, Row
from djinn_checks.units import format_percent, format_seconds

_GENERATE_RATIO = 1.1
_OF_CEILING = {
    "out": Row("swap_out_of_ceiling", "The KV leaves at the link's speed", unit="share of ceiling"),
    "in": Row("restore_of_ceiling", "The KV comes back at the link's speed", unit="share of ceiling"),
}


def judge_moves(evidence: AgentsEvidence) -> list[Criterion]:
    """Return the rows about swap-out and restore."""
    return [_of_ceiling(evidence, "out"), _of_ceiling(evidence, "in")]


def judge_decode(evidence: AgentsEvidence) -> Criterion:
    """Return the criterion about the time per token."""
    row = Row("decode_of_generate", "A token takes the server no longer than generate()", unit="times", required=False)
    pace = evidence.token_pace
    if pace is None:
        return row.skip(evidence.why_no_token_pace)
    return row.judge(pace.ratio, "<=", _GENERATE_RATIO, evidence=_say_rounds(pace), missing=pace.reason)


def _of_ceiling(evidence: AgentsEvidence, direction: str) -> Criterion:
    row, least = _OF_CEILING[direction], evidence.params.swap_of_ceiling
    if evidence.link is None:
        return row.skip(evidence.why_no_link)
    ceiling = evidence.link.ceilings[direction].bytes_per_s
    told, (times, why) = evidence.swap_rates(direction), evidence.move_times(direction)
    sizes = [evidence.kv_bytes(sleep.tokens) for sleep in evidence.sleeper.sleeps]
    slowest = [size / move.greatest_s for size, move in zip(sizes, times, strict=False)]
    fastest = [size / move.least_s for size, move in zip(sizes, times, strict=False)]
    by_server, lowest, highest = (median(rates) / ceiling if rates else None for rates in (told, slowest, fastest))
    observed = _decide(lowest, highest, by_server, least)
    if lowest is not None and highest is not None:
        why = f"between {lowest:.1%} and {highest:.1%}, as the counters are not read more often"
    each = zip(*filter(None, (told, fastest)), strict=True)
    apart = _say_apart([min(rates) / ceiling for rates in each], least)
    if apart and observed is not None and observed < least:
        observed, why = None, apart
    return row.judge(
        observed,
        ">=",
        least,
        evidence=f"medians: {format_percent(lowest)} by the counters of the link, {format_percent(by_server)} by the "
        f"server's clock, digest included; the ceiling is {ceiling / 1e9:.1f} GB/s{_wait(evidence, direction)}",
        missing=why,
        failed="are the buffers pinned, and the copies in one batch?",
    )


def _say_apart(shares: Sequence[float], least: float) -> str:
    """Return that half of the moves are fast enough and half are not; empty if that is not so. The median of an even
    number is the mean of two, and one of them that somebody else held up would decide.

    Args:
        shares: of the ceiling, of each move: the less of what the server says and what the counters allow at the most.
    """
    half = len(shares) // 2
    ranked = sorted(shares)
    if len(shares) % 2 or not shares or not ranked[half - 1] < least <= ranked[half]:
        return ""
    one, other = map(format_percent, (ranked[half - 1], ranked[half]))
    return (
        f"the middle two of {len(shares)} moves got {one} and {other}, and which of them is usual nobody can tell; "
        "give an odd number of sleeps, three or more"
    )


def _decide(lowest: float | None, highest: float | None, by_server: float | None, least: float) -> float | None:
    """Return the share that is judged, None if it is open."""
    if by_server is not None and by_server < least:
        return by_server
    if lowest is None or highest is None or lowest < least <= highest:
        return None
    counted = highest if highest < least else lowest
    return counted if by_server is None else min(counted, by_server)


def _wait(evidence: AgentsEvidence, direction: str) -> str:
    records = [sleep.after for sleep in evidence.sleeper.sleeps if sleep.after]
    waits = [record.allocate_s for record in records if record.allocate_s]
    return f"; memory for it took {format_seconds(max(waits))} more" if direction == "in" and waits else ""


def _say_rounds(pace: TokenPace) -> str:
    if not pace.server_s:
        return "no rounds"
    return (
        f"{_both(pace, min)} a token in the fastest of {len(pace.server_s)} rounds each, in turns on the same GPU, "
        f"no log-probabilities on either side; in the median round, neighbours included, {_both(pace, median)}"
    )


def _both(pace: TokenPace, of: Callable[[Sequence[float]], float]) -> str:
    return f"{format_seconds(of(pace.server_s))} and {format_seconds(of(pace.generate_s))}"
