"""The pass in which the fewest bytes came: a mean over passes hides those in which a system answers from a full copy.

What a pass uses lies on the device when it begins, or comes while it runs, so of each pass alone the link has to have
carried what the budget cannot hold. Its ends are taken at readings around it and its bytes at their most, so that no
honest pass comes short.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from djinn_checks.checks.pcie.evidence import MOST_OF_CEILING, PcieEvidence

OF_ONE_PASS = "no more can have come in pass"
"""In the reason of a row that fails by one pass, before its number."""


@dataclass(frozen=True, kw_only=True)
class LeanPass:
    """One pass, and the most payload that can have come in it."""

    number: int
    """From 1 on."""
    most_bytes: float


def find_leanest_pass(evidence: PcieEvidence) -> LeanPass | None:
    """Return the pass in which the fewest bytes can have come; None if no pass was counted whole."""
    series, counter, run = evidence.series, evidence.counter, evidence.run
    if series is None or counter is None or run is None or not series.wraps or len(series.t_s) < 2:
        return None
    starts, ends = np.array([run.start_s, *run.pass_ends_s[:-1]]), np.array(run.pass_ends_s)
    first = np.searchsorted(series.raw.after_s, starts, side="right") - 1
    last = np.searchsorted(series.raw.before_s, ends)
    known = (first >= 0) & (last < len(series.t_s))
    if not known.any():
        return None
    since, until = series.t_s[first[known]], series.t_s[last[known]]
    most = (series.rx_bytes[last[known]] - series.rx_bytes[first[known]]) / counter.wire_per_payload
    for hole_start, hole_end in series.holes:
        within = np.clip(np.minimum(until, hole_end) - np.maximum(since, hole_start), 0.0, None)
        most = most + within * MOST_OF_CEILING * evidence.link.ceiling_bytes_per_s
    leanest = int(np.argmin(most))
    return LeanPass(number=int(np.flatnonzero(known)[leanest]) + 1, most_bytes=float(most[leanest]))
