"""The rows that rest on figures from outside the process: the link's counters, and the driver's count of memory.

Why a forward's bytes decide. At its start the device holds at most the budget of weights, and until its end all of them
have been used. So what the budget cannot hold crosses the link between the two, whatever was fetched ahead.
"""

from __future__ import annotations

from collections.abc import Sequence

from djinn_checks.checks.logits.evidence import LogitsEvidence
from djinn_checks.checks.logits.watch import Span
from djinn_checks.outcome import Criterion, Row
from djinn_checks.units import GB, format_bytes

_MARGIN_S = 0.002
"""Added to a forward on both sides: the counters are read about once in a millisecond, and clocks differ a little."""
_TOLERANCE = 0.01
"""Of the counters against known copies (`docs/pcie.md`)."""
_CLAIM_TOLERANCE = 0.03
_COARSE = 20
"""A forward has to need so many times what can cross in the margins, or a neighbour's bytes could stand for its own."""
_COUNTED_SHARE = 0.95
"""Of all forwards: readings may be lost now and then, and what is lost is no evidence."""
_CONTEXT_BYTES = GB
"""A process's context, its libraries' kernels and their work space, which are no weights; measured: 0.5 GB each."""


def judge_link(evidence: LogitsEvidence) -> tuple[Criterion, ...]:
    """Return the rows that a GPU's counters decide."""
    return (_streamed_in_every_forward(evidence), _claimed_vs_counted(evidence), _memory_of_all(evidence))


def count_read_in_place(evidence: LogitsEvidence) -> int | None:
    """Return the fewest bytes that crossed in a forward that no witness watched, whose own reads would count."""
    spans = [span for span in evidence.system.spans if not span.watched]
    counted = [count for count in _count(evidence, spans) if count is not None]
    enough = spans and len(counted) >= _COUNTED_SHARE * len(spans)
    return int(min(counted)) if enough and not _too_coarse(evidence, counted) else None


def _needed(evidence: LogitsEvidence) -> int:
    """Return the bytes that every forward has to move: of a model that uses parts of itself, of the least part."""
    used = [seen.used_bytes for seen in evidence.reference.weights.values()]
    return max(0, min(used, default=0) - evidence.budget_bytes)


def _count(evidence: LogitsEvidence, spans: Sequence[Span]) -> list[float | None]:
    payload = evidence.link.payload_between
    if payload is None:
        return [None] * len(spans)
    return [payload(span.start_s - _MARGIN_S, span.end_s + _MARGIN_S) for span in spans]


def _too_coarse(evidence: LogitsEvidence, counted: Sequence[float]) -> str:
    """Return why the counters cannot tell one forward from the next; empty if they can."""
    spans = evidence.system.spans
    longest = max((span.end_s - span.start_s for span in spans), default=0.0)
    if not counted or longest <= 0:
        return ""
    fastest = max(counted) / (longest + 2 * _MARGIN_S)
    needed, margin = _needed(evidence), 2 * _MARGIN_S * max(fastest, _needed(evidence) / longest)
    if needed >= _COARSE * margin:
        return ""
    return (
        f"a forward has to move {format_bytes(needed)} and takes {1e3 * longest:.3g} ms at most: the counters, read "
        "about once in a millisecond, cannot tell one forward from the next"
    )


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
    coarse = _too_coarse(evidence, [count for _, count in pairs])
    if coarse:
        return row.skip(coarse)
    needed = _needed(evidence)
    short = [(span, count) for span, count in pairs if count < (1 - _TOLERANCE) * needed]
    lost = len(spans) - len(pairs)
    kinds = {span.place.phase for span, _ in pairs} >= {span.place.phase for span in spans}
    enough = bool(pairs) and kinds and len(pairs) >= _COUNTED_SHARE * len(spans)
    worst = min(short, key=lambda pair: pair[1], default=None)
    failed = ""
    if worst is not None:
        failed = f"least in {worst[0].place}: {format_bytes(int(worst[1]))} of {format_bytes(needed)}"
    return row.judge(
        len(short) if short or enough else None,
        "==",
        0,
        evidence=f"PCIe counters, read by a process of their own: {len(pairs)} of {len(spans)} forwards counted, "
        f"each held against {format_bytes(needed)}" + (", those that a witness reads in left out" if in_place else ""),
        missing=f"readings of the counters were lost in {lost} of {len(spans)} forwards",
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
    coarse = _too_coarse(evidence, [count for count in _count(evidence, spans) if count is not None])
    if coarse:
        return row.skip(coarse)
    within = [payload(span.start_s, span.end_s) for span in spans if not span.watched]
    claimed = [claim for span, claim in zip(spans, known, strict=True) if not span.watched]
    counted = [(count, claim) for count, claim in zip(within, claimed, strict=True) if count is not None]
    least = (1 - _CLAIM_TOLERANCE) * sum(count for count, _ in counted) - evidence.budget_bytes
    text = "PCIe counters within each forward and from the first to the last, and the system's own count"
    total = payload(spans[0].start_s - _MARGIN_S, spans[-1].end_s + _MARGIN_S)
    if sum(claim for _, claim in counted) < least:
        return row.judge(
            sum(claim for _, claim in counted), ">=", int(least), evidence=text, failed="more crossed than was claimed"
        )
    most = None if total is None else int((1 + _CLAIM_TOLERANCE) * total) + evidence.budget_bytes
    return row.judge(
        sum(known) if most is not None else None,
        "<=",
        most,
        evidence=text,
        missing="readings of the counters were lost between the first forward and the last",
        failed="the system claims bytes that never crossed the link",
    )


def _memory_of_all(evidence: LogitsEvidence) -> Criterion:
    """What children and a system's own calls took. Whose it is has to be known before anybody is accused."""
    title = "No device memory for weights was taken beside PyTorch's allocator, by the system or its children"
    row = Row("device_memory_of_all", title, unit="bytes")
    link, reference = evidence.link, evidence.reference
    if link.beside_bytes is None:
        return row.skip("there is no device memory to measure: the device is a CPU")
    beyond = reference.weight_bytes - evidence.budget_bytes
    if beyond < 2 * _CONTEXT_BYTES:
        return row.skip(
            f"what the budget cannot hold ({format_bytes(beyond)}) is too little to be told from a process's context "
            f"({format_bytes(_CONTEXT_BYTES)})"
        )
    taken = link.beside_bytes if link.ours_bytes is None else link.ours_bytes
    unknown = link.ours_bytes is None and taken > _CONTEXT_BYTES
    return row.judge(
        None if unknown else taken,
        "<=",
        _CONTEXT_BYTES,
        evidence="the driver's count of the whole device, less what was in use before and what PyTorch's allocator "
        "has, after every forward"
        + ("" if link.ours_bytes is None else "; this process's and its children's, by NVML"),
        missing=f"{format_bytes(taken)} more are in use, and the driver does not say whose they are",
        failed="the budget and the allocator's peak know nothing of it",
    )
