"""The rows of the PCIe check that hold the link's bytes against the model's weights.

Four figures are kept apart: how full the wire is (`wire_fullness`), the bytes that a system claims for the wire
(`claimed_vs_counted`, in `criteria.py`), weight bytes a second over the ceiling (`weight_rate`), which may be above 1
for a system that encodes and is believed only of weights that a pass was seen to use, and the bytes on the wire
against the fewest that the weights' own entropy leaves for what the budget cannot hold (`streams_the_model`). A system
that keeps more than its budget fails by the last or by its memory, an honest coder by none.
"""

from __future__ import annotations

from djinn_checks.checks.pcie.evidence import HOST_MEMORY, PcieEvidence
from djinn_checks.checks.pcie.lean_pass import OF_ONE_PASS, find_leanest_pass
from djinn_checks.checks.pcie.why_more import LOST, say_why_more
from djinn_checks.instruments.payload import FETCHED_TWICE, READ_BY_WAITS
from djinn_checks.outcome import Criterion, Row
from djinn_checks.units import GB, format_bytes

_WORKING_SET_BYTES = GB
"""Device memory beside the weights, at batch 1 and some hundred tokens: KV cache, logits, buffers of libraries."""
_NO_MODEL = "a recorded trace does not say which model ran"
_SPARED = (
    "{} of the weights are experts that a pass's token is not routed to, or rows of a table of embeddings that it does "
    "not pick; nobody saw whether it is they that did not come, which need not"
)
_WITNESS = "weight witness: bytes that were certainly written in one pass"


def judge_weights(evidence: PcieEvidence, doubt: str) -> tuple[Criterion, ...]:
    """Return the rows about weights; `doubt` is why the link's counters cannot be trusted."""
    return (
        _streams_the_model(evidence, doubt),
        _weights_decoded(evidence),
        _reads_are_used(evidence, doubt),
        _device_memory(evidence),
        _wire_fullness(evidence, doubt),
        _weight_rate(evidence, doubt),
    )


def _streams_the_model(evidence: PcieEvidence, doubt: str) -> Criterion:
    title = "In every pass at least the weights arrive that the budget cannot hold"
    if evidence.encodes:
        title += ", in the fewest bytes that their entropy allows"
    row = Row("streams_the_model", title, unit="bytes a pass")
    if not evidence.passes or evidence.weight_bytes is None or evidence.budget_bytes is None:
        return row.skip(_NO_MODEL)
    if evidence.link.subject == HOST_MEMORY:
        return row.judge(
            evidence.run.witnessed_bytes if evidence.run else None,
            ">=",
            evidence.weight_bytes - evidence.budget_bytes,
            evidence=_WITNESS,
            missing="not all weights were seen in use, bit for bit, and what was not seen may have moved",
            failed="more of the model stayed on the device than the budget allows, or it was not used",
        )
    needed = evidence.least_per_pass
    if doubt or needed is None:
        return row.judge(None, ">=", int((1 - evidence.params.byte_tolerance) * (needed or 0)), evidence="",
                         missing=doubt or "the entropy of the weights was not measured")  # fmt: skip
    least = int((1 - evidence.params.byte_tolerance) * needed)
    observed, missing, failed = _find_coming(evidence, least)
    return row.judge(
        observed,
        ">=",
        least,
        evidence=f"counted payload{_say_floor(evidence)}",
        missing=missing,
        failed=failed,
    )


def _find_coming(evidence: PcieEvidence, least: int) -> tuple[float | None, str, str]:
    """Return the bytes of a pass that decide, or None, and then why they are not known; last why too few are wrong.

    In the mean over all passes at least so many came for certain, or at most so many may have; and of each pass alone
    the link has to have carried what the budget and everything else on the device cannot hold.
    """
    failed = "more of the model stayed on the device than the budget allows, or it was not used"
    passes = evidence.passes or 1
    if evidence.least_bytes is None or evidence.most_bytes is None:
        return None, LOST, failed
    certain, most = evidence.least_bytes / passes, evidence.most_bytes / passes
    likely = evidence.counted_per_pass
    if most < least - evidence.unrouted_bytes:
        return most if likely is None else likely, "", failed
    if most < least:
        return None, _SPARED.format(format_bytes(evidence.unrouted_bytes)), failed
    leanest = find_leanest_pass(evidence)
    if leanest is not None and leanest.most_bytes < least - _WORKING_SET_BYTES - evidence.unrouted_bytes:
        return leanest.most_bytes, "", f"{OF_ONE_PASS} {leanest.number}: {failed}"
    if certain < least:
        return None, f"{format_bytes(certain)} to {format_bytes(most)} came in a pass: {say_why_more(evidence)}", failed
    return certain if likely is None else likely, "", failed


def _say_floor(evidence: PcieEvidence) -> str:
    floor = evidence.floor
    if not evidence.encodes or floor is None:
        return ""
    return (
        f"; the weights' {format_bytes(floor.weight_bytes)} have an entropy of {format_bytes(floor.least_bytes)}, "
        f"{floor.least_bytes / floor.weight_bytes:.1%}, known within {format_bytes(floor.error_bytes)}; what the "
        "budget could hold of them encoded is taken off"
    )


def _weights_decoded(evidence: PcieEvidence) -> Criterion:
    """A system that encodes moves fewer bytes than its weights have, and so does one that leaves some out."""
    row = Row("weights_decoded", "A pass was seen to use every weight, bit for bit", unit="bytes")
    if not evidence.encodes:
        return row.skip("the system does not say that it encodes, and is held to the weights' own bytes")
    if evidence.run is None:
        return row.skip("a recorded trace shows the link and not the weights")
    seen = evidence.run.seen
    known = seen.known_bytes if seen else 0
    complete = seen is not None and not seen.missing
    names = ", ".join(seen.missing[:3]) if seen else ""
    more = f" and {len(seen.missing) - 3} more" if seen and len(seen.missing) > 3 else ""
    found = f"{format_bytes(seen.exact_bytes)} of {format_bytes(known)} were seen; not {names}{more}" if seen else ""
    return row.judge(
        known if complete else None,
        "==",
        known,
        evidence="weight witness in one pass before the start, against digests of the model's own weights",
        missing=found or "no weight was seen in use",
    )


def _reads_are_used(evidence: PcieEvidence, doubt: str) -> Criterion:
    row = Row(
        "reads_are_used", "No more is claimed for the link than the weights that a pass can use", unit="bytes a pass"
    )
    if not evidence.passes or evidence.weight_bytes is None or evidence.link.subject == HOST_MEMORY:
        return row.skip(
            _NO_MODEL if not evidence.passes or evidence.weight_bytes is None else "nothing counts this link"
        )
    usable = evidence.used_bytes or evidence.weight_bytes
    if evidence.claimed_bytes is None:
        return _came_unclaimed(evidence, row, usable)
    claimed = evidence.claimed_bytes / evidence.passes
    reader = evidence.reader.says if evidence.reader else "the reader is not known"
    return row.judge(
        None if doubt else claimed,
        "<=",
        int((1 + evidence.params.byte_tolerance) * usable),
        missing=doubt,
        evidence=f"claimed bytes over passes; a pass has {format_bytes(usable)} of weights to use; {reader}",
        failed=f"{format_bytes(claimed - usable)} of each pass are fetched and not used, "
        f"{1 - usable / claimed if claimed else 0:.0%} of what is claimed",
    )


def _came_unclaimed(evidence: PcieEvidence, row: Row, usable: int) -> Criterion:
    """Without a count only bytes that no weights explain are seen, and not whose they are."""
    beyond = (1 + FETCHED_TWICE) * usable + READ_BY_WAITS * evidence.duration_s / (evidence.passes or 1)
    came = (evidence.least_bytes or 0.0) / (evidence.passes or 1)
    if came <= beyond:
        return row.skip("the system keeps no count of the bytes it moves")
    missing = f"{format_bytes(came)} came in each pass, which has {format_bytes(usable)} of weights to use; the system "
    missing += "keeps no count, so whose the others are is not known: give it one (`claimed_bytes`)"
    return row.judge(None, "<=", int((1 + FETCHED_TWICE) * usable), evidence="counted payload", missing=missing)


def _device_memory(evidence: PcieEvidence) -> Criterion:
    """A copy that the link does not carry has to lie there all the time; what passes by may be more."""
    title = "What lies on the device all the time is within the budget of weights and 1 GB for everything else"
    row = Row("device_memory", title, unit="bytes")
    run = evidence.run
    if run is None or evidence.budget_bytes is None:
        return row.skip(_NO_MODEL)
    if run.held_bytes is None:
        return row.skip("there is no device memory to measure: the device is a CPU")
    beside = max(0, run.beside_bytes or 0)
    limit = evidence.budget_bytes + _WORKING_SET_BYTES
    within = run.held_bytes <= limit
    unknown = within and run.held_bytes + beside > limit
    missing = f"{format_bytes(beside)} more than before were taken beside PyTorch's allocator, by the system or by "
    missing += "another process"
    smallest = int(evidence.floor.certain_bytes) if evidence.encodes and evidence.floor else evidence.weight_bytes
    if smallest is not None and smallest <= limit:
        unknown = within
        missing = f"all weights fit into {format_bytes(smallest)}, and a copy of them would be within the limit: give "
        missing += "a larger model, or a smaller budget"
    return row.judge(
        None if unknown else run.held_bytes + (beside if within else 0),
        "<=",
        limit,
        evidence=f"PyTorch's allocator whenever a pass ended, in the median {format_bytes(run.held_bytes)}, and "
        f"{format_bytes(beside)} that were taken beside it",
        missing=missing,
        failed="a second copy of weights, or more of them than the budget allows, lies on the device",
    )


def _wire_fullness(evidence: PcieEvidence, doubt: str) -> Criterion:
    """Of a reader with small requests the wire is full before the payload reaches the ceiling of copies."""
    title = "The wire is as full as large copies make it"
    row = Row("wire_fullness", title, unit="share of what copies put on the wire", required=False)
    reader = evidence.reader.says if evidence.reader else ""
    return row.judge(
        None if doubt else evidence.wire_of_ceiling,
        ">=",
        evidence.params.ceiling_fraction,
        evidence=f"mean of the run; {reader}" if reader else "mean of the run",
        missing=doubt or LOST,
    )


def _weight_rate(evidence: PcieEvidence, doubt: str) -> Criterion:
    title = "Weights come as fast as the link could bring them as they are"
    row = Row("weight_rate", title, unit="share of the ceiling", required=False)
    if not evidence.passes or evidence.weight_bytes is None:
        return row.skip(_NO_MODEL)
    rate, least = evidence.weight_rate_of_ceiling, evidence.params.ceiling_fraction
    is_open = rate is not None and rate < least and not evidence.encodes and evidence.may_be_more
    return row.judge(
        None if doubt or is_open else rate,
        ">=",
        least,
        evidence="weight bytes that were certainly written in a pass that was seen to use all of them"
        if evidence.encodes
        else "counted payload, no more than all weights in each pass",
        missing=doubt
        or ("no pass was seen to use all decoded weights" if evidence.encodes else say_why_more(evidence)),
    )
