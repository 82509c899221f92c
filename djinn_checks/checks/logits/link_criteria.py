"""The rows that rest on figures from outside the process: the link's counters, and the driver's count of memory.

Why a forward's bytes decide. At its start the device holds at most the budget of weights, and until its end all of them
have been used. So what the budget cannot hold crosses the link between the two, whatever was fetched ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from djinn_checks.checks.logits.evidence import LogitsEvidence
from djinn_checks.checks.logits.link import PayloadBetween
from djinn_checks.checks.logits.watch import Span
from djinn_checks.outcome import Criterion, Row
from djinn_checks.units import GB, format_bytes

_TOLERANCE = 0.01
"""Of the counters against known copies (`docs/pcie.md`)."""
_CLAIM_TOLERANCE = 0.03
_COARSE = 20
"""A forward has to need so many times what can cross beside it, or a neighbour's bytes could stand for its own."""
_COUNTED_SHARE = 0.95
"""Of all forwards: readings may be lost now and then, and what is lost is no evidence."""
_CONTEXT_BYTES = GB
"""A process's context, its libraries' kernels and their work space, which are no weights; measured: 0.5 GB each."""


def judge_link(evidence: LogitsEvidence) -> tuple[Criterion, ...]:
    """Return the rows that a GPU's counters decide."""
    return (_streamed_in_every_forward(evidence), _claimed_vs_counted(evidence), _memory_of_all(evidence))


def count_read_in_place(evidence: LogitsEvidence) -> tuple[int | None, str]:
    """Return the fewest bytes that crossed in a forward that no witness watched, or why that is not known.

    A witness reads what it watches, so its own reads would count.
    """
    spans = [span for span in evidence.system.spans if not span.watched]
    counted = [count for count in _count(evidence, spans) if count is not None]
    if not counted or len(counted) < _COUNTED_SHARE * len(spans):
        return None, evidence.link.reason or "readings of the counters were lost"
    coarse = _too_coarse(evidence)
    return (None, coarse) if coarse else (int(min(counted)), "")


def _needed(evidence: LogitsEvidence) -> int:
    """Return the bytes that every forward has to move: of a model that uses parts of itself, of the least part.

    A system that says that it encodes may move as few as the weights' own entropy leaves, and keep encoded ones.
    """
    used = [seen.used_bytes for seen in evidence.reference.weights.values()]
    least = int(evidence.reference.least_share * min(used, default=0))
    return max(0, least - evidence.budget_bytes)


def _count(evidence: LogitsEvidence, spans: Sequence[Span], *, most: bool = False) -> list[float | None]:
    """Return the bytes that were read between the readings around each span: at least so many, or at most."""
    payload = evidence.link.payload_between
    payload = evidence.link.most_between or payload if most else payload
    around = [evidence.link.enclose(span.start_s, span.end_s) for span in spans]
    return [None if payload is None or edges is None else payload(*edges) for edges in around]


def _fastest(evidence: LogitsEvidence) -> float:
    """Return the most bytes per second that crossed in a forward."""
    spans = evidence.system.spans
    pairs = zip(spans, _count(evidence, spans), strict=True)
    rates = [count / (span.end_s - span.start_s) for span, count in pairs if count is not None]
    return max(rates, default=0.0)


def _too_coarse(evidence: LogitsEvidence) -> str:
    """Return why the counters cannot tell one forward from the next; empty if they can, in nearly all forwards."""
    needed, beside_s = _needed(evidence), sorted(_beside(evidence))
    widest_s = beside_s[min(int(_COUNTED_SHARE * len(beside_s)), len(beside_s) - 1)] if beside_s else 0.0
    in_margins = widest_s * _fastest(evidence)
    if needed >= _COARSE * in_margins:
        return ""
    return (
        f"a forward has to move {format_bytes(needed)}, and the counters, whose readings leave {widest_s * 1e3:.1f} ms "
        f"around it, cannot tell it from the next one's: {format_bytes(int(in_margins))} cross in that time"
    )


def _beside(evidence: LogitsEvidence) -> list[float]:
    """Return how much longer than each forward the time between the readings around it is, in seconds."""
    spans = evidence.system.spans
    around = [(span, evidence.link.enclose(span.start_s, span.end_s)) for span in spans]
    return [(edges[1] - edges[0]) - (span.end_s - span.start_s) for span, edges in around if edges is not None]


def _streamed_in_every_forward(evidence: LogitsEvidence) -> Criterion:
    row = Row(
        "streamed_in_every_forward",
        "In every forward of all passes at least what the budget cannot hold crossed the link",
        unit="forwards",
    )
    spans = evidence.system.spans
    in_place = any(found.weights and found.weights.host_bytes for found in evidence.system.watched)
    spans = tuple(span for span in spans if not (in_place and span.watched))
    if evidence.link.payload_between is None:
        return row.skip(f"the link was not counted: {evidence.link.reason}")
    pairs = [(span, count) for span, count in zip(spans, _count(evidence, spans), strict=True) if count is not None]
    most = dict(zip(spans, _count(evidence, spans, most=True), strict=True))
    if coarse := _too_coarse(evidence):
        return row.skip(coarse)
    needed, reference = _needed(evidence), evidence.reference
    below = [(span, count) for span, count in pairs if count < (1 - _TOLERANCE) * needed]
    short = [(span, count) for span, count in below if (most[span] or 0) < (1 - _TOLERANCE) * needed]
    routed = [(span, count) for span, count in short if count >= (1 - _TOLERANCE) * needed - reference.unrouted_bytes]
    short = [pair for pair in short if pair not in routed]
    lost = len(spans) - len(pairs)
    kinds = {span.place.phase for span, _ in pairs} >= {span.place.phase for span in spans}
    enough = bool(pairs) and kinds and len(pairs) >= _COUNTED_SHARE * len(spans)
    worst = min(short, key=lambda pair: pair[1], default=None)
    failed, missing = "", f"readings of the counters were lost in {lost} of {len(spans)} forwards"
    if routed:
        missing = (
            f"in {len(routed)} forwards less came than all weights have, and {format_bytes(reference.unrouted_bytes)} "
            "are experts that one token is not routed to and that need not come"
        )
    elif below:
        missing = f"in {len(below)} forwards more was sent to the host than requests, and less may have been read"
    if worst is not None:
        failed = f"least in {worst[0].place}: {format_bytes(int(worst[1]))} of {format_bytes(needed)}"
    return row.judge(
        len(short) if short or (enough and not below) else None,
        "==",
        0,
        evidence=f"PCIe counters, read by a process of their own: {len(pairs)} of {len(spans)} forwards counted, "
        f"each held against {format_bytes(needed)}" + (", those that a witness reads in left out" if in_place else ""),
        missing=missing,
        failed=failed,
    )


def _claimed_vs_counted(evidence: LogitsEvidence) -> Criterion:
    """Two-sided: at least what crossed within forwards was claimed, and at most what crossed from first to last."""
    row = Row("bytes_claimed_vs_counted", "The bytes claimed for all forwards crossed the link", unit="bytes")
    claims = [claim for run_pass in evidence.system.passes for claim in run_pass.claims]
    known = [claim for claim in claims if claim is not None]
    payload, spans = evidence.link.payload_between, evidence.system.spans
    if not known or len(known) < len(claims):
        return row.skip("the system keeps no count of the bytes it moves")
    if payload is None:
        return row.skip(f"the link was not counted: {evidence.link.reason}")
    if coarse := _too_coarse(evidence):
        return row.skip(coarse)
    text = "PCIe counters within each forward and from the first to the last, and the system's own count"
    within = [(payload(span.start_s, span.end_s), claim) for span, claim in zip(spans, known, strict=True)]
    counted = [
        (count, claim)
        for span, (count, claim) in zip(spans, within, strict=True)
        if count is not None and not span.watched
    ]
    least = int((1 - _CLAIM_TOLERANCE) * sum(count for count, _ in counted)) - evidence.budget_bytes
    claimed = sum(claim for _, claim in counted)
    if claimed < least:
        return row.judge(claimed, ">=", least, evidence=text, failed="more crossed than was claimed")
    most = _most_crossed(evidence, evidence.link.most_between or payload)
    return row.judge(
        None if most is None else sum(known),
        "<=",
        0 if most is None else int((1 + _CLAIM_TOLERANCE) * most) + evidence.budget_bytes,
        evidence=text,
        missing="too many readings of the counters were lost",
        failed="the system claims bytes that never crossed the link",
    )


def _most_crossed(evidence: LogitsEvidence, payload: PayloadBetween) -> float | None:
    """Return the most that can have crossed between first and last forward; at full rate where readings were lost."""
    spans = evidence.system.spans
    around = evidence.link.enclose(spans[0].start_s, spans[-1].end_s)
    if around is None:
        return None
    edges = [around[0], *(span.start_s for span in spans[1:]), around[1]]
    windows = [(start, end) for start, end in pairwise(edges) if end > start]
    counts = [payload(start, end) for start, end in windows]
    lost_s = sum(end - start for (start, end), count in zip(windows, counts, strict=True) if count is None)
    if lost_s > (1 - _COUNTED_SHARE) * (edges[-1] - edges[0]):
        return None
    return sum(count for count in counts if count is not None) + lost_s * _fastest(evidence)


def _memory_of_all(evidence: LogitsEvidence) -> Criterion:
    """What children and a system's own calls took. Whose it is has to be known before anybody is accused."""
    title = "Device memory of the system, its own calls and its children included, stayed within budget and working set"
    row = Row("device_memory_of_all", title, unit="bytes")
    link, working_set, peak = evidence.link, evidence.reference.working_set_bytes, evidence.system.peak_bytes
    if link.beside_bytes is None or working_set is None or peak is None:
        return row.skip("there is no device memory to measure: the device is a CPU")
    beyond = evidence.reference.weight_bytes - evidence.budget_bytes
    if beyond < 2 * _CONTEXT_BYTES:
        return row.skip(
            f"what the budget cannot hold ({format_bytes(beyond)}) is too little to be told from a process's context "
            f"({format_bytes(_CONTEXT_BYTES)})"
        )
    limit = int((1 + evidence.params.memory_tolerance) * (evidence.budget_bytes + working_set)) + _CONTEXT_BYTES
    taken = peak + (link.beside_bytes if link.ours_bytes is None else link.ours_bytes)
    is_unknown = link.ours_bytes is None and taken > limit >= peak
    return row.judge(
        None if is_unknown else taken,
        "<=",
        limit,
        evidence="PyTorch's allocator at its peak, and what the driver counts beside it after every forward, less what "
        "was in use before" + ("" if link.ours_bytes is None else "; this process's and its children's, by NVML"),
        missing=f"{format_bytes(link.beside_bytes)} more are in use, and the driver does not say whose they are",
        failed="the budget does not know of it",
    )
