"""The rows about weights: did they move in the forwards that nobody could foresee, and were they the right ones?

What is claimed is claimed of the forwards that were watched, and of others by the chance of the draw alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from djinn_checks.checks.logits.evidence import LogitsEvidence
from djinn_checks.checks.logits.link_criteria import count_read_in_place
from djinn_checks.checks.logits.prompt_run import PHASES
from djinn_checks.checks.logits.watch import Watched
from djinn_checks.instruments.weight_witness import WeightEvidence
from djinn_checks.outcome import Criterion, Row
from djinn_checks.units import format_bytes

_NO_COUNT = "the system keeps no count of the bytes it moves"
_NO_WITNESS = (
    "no weight was seen in use: the system runs compiled, in a CUDA graph, without PyTorch, or in a thread or process "
    "in which it calls no nn.Module"
)
_HOW_TO_BE_SEEN = (
    "a weight is seen if a function of PyTorch gets it whole, or as rows of two or three that are joined, in the "
    "checkpoint's data type and layout; not in tiles, and not inside an operator, a mode or a class of tensors of the "
    "system's own"
)
_MOST_COPIES = 16
"""For each use. A ring that meets modules out of its order fetches weights again and again: nine times in a model whose
layers hold two attentions. What is claimed beyond so many was not moved by a system that wants to be fast."""


def judge_weights(evidence: LogitsEvidence) -> tuple[Criterion, ...]:
    """Return the rows about weights; where bytes were wrong, whose they are comes before whether they moved."""
    at_use = _weights_at_use(evidence)
    rows = (
        _weights_streamed(evidence),
        _weights_within_budget(evidence),
        _used_every_time(evidence),
        _claimed_vs_planned(evidence),
        _claimed_vs_witnessed(evidence),
    )
    are_wrong = bool(evidence.watched) and any(found.weights and found.weights.different for found in evidence.watched)
    return (at_use, *rows) if are_wrong else (*rows[:2], at_use, *rows[2:])


@dataclass(frozen=True)
class _Moved:
    """What one watched forward says about streaming."""

    found: Watched
    observed: int | None
    needed: int
    missing: str = ""
    by_link: bool = False

    @property
    def margin(self) -> int:
        return (self.observed or 0) - self.needed


def _weights_streamed(evidence: LogitsEvidence) -> Criterion:
    """The pigeonhole proof. Weights that were wrong prove nothing and are left out on both sides."""
    row = Row(
        "weights_streamed",
        "At least the weights that the budget cannot hold were written in every forward that was watched",
        unit="bytes",
    )
    moved = [_judge_forward(found, evidence) for found in evidence.system.watched]
    short = [found for found in moved if found.observed is not None and found.margin < 0]
    open_still = [found for found in moved if found.observed is None and not found.found.quiet]
    shown = [found for found in moved if found.observed is not None]
    chosen = min(short or shown, key=lambda found: found.margin, default=None)
    text = (
        _describe_watch(evidence) + "; a lower bound: exact weights used minus the most memory that held them at once"
    )
    if any(found.by_link for found in moved):
        text += "; for weights that are used where they lie in host memory: the link's counters, in forwards that no "
        text += "witness watched"
    if chosen is None or (open_still and not short):
        reason = open_still[0].missing if open_still else _NO_WITNESS
        return row.judge(None, ">=", max(1, _least_needed(moved)), evidence=text, missing=reason)
    wrong = any(found.weights and found.weights.different for found in evidence.watched)
    failed = f"in {chosen.found.place} the weights were used from memory that held them all the time; " + (
        "see weights_at_use: bytes that were wrong prove no movement" if wrong else "did anything stream?"
    )
    return row.judge(chosen.observed, ">=", chosen.needed, evidence=text, failed=failed)


def _least_needed(moved: Sequence[_Moved]) -> int:
    return min((found.needed for found in moved), default=1)


def _judge_forward(found: Watched, evidence: LogitsEvidence) -> _Moved:
    seen, budget = found.weights, evidence.budget_bytes
    if seen is None:
        return _Moved(found, None, max(1, found.reference.used_bytes - budget), _NO_WITNESS)
    needed = max(1, found.reference.bytes_without(seen.different) - budget)
    observed, most, by_link = seen.moved_bytes_lower_bound, _most_moved(found, seen), seen.host_bytes > 0
    if by_link and observed < needed:
        read, why = count_read_in_place(evidence)
        if read is None:
            where = f"{format_bytes(seen.host_bytes)} of weights are used where they lie in host memory"
            return _Moved(found, None, needed, f"{where}, and how often they are read is not known: {why}", True)
        in_place = min(max(0, read - observed), seen.host_bytes)
        observed, most = observed + in_place, most + in_place
    if observed >= needed or most < needed:
        return _Moved(found, observed, needed, by_link=by_link)
    if not seen.complete or seen.unknown:
        return _Moved(found, None, needed, _gaps(seen), by_link)
    reason = (
        "memory that weights were used from was let go, and may be held still: it is a file's, shared with another "
        "tensor, or not PyTorch's own, as it also is once NumPy was given a view of it; copy into another tensor"
    )
    return _Moved(found, None, needed, reason, by_link)


def _most_moved(found: Watched, seen: WeightEvidence) -> int:
    """Return what may have moved if all that was not seen did, and all was given back that may have been."""
    contents = found.reference.contents
    unseen = sum(dict(contents[name] for name in seen.unseen).values())
    unknown = sum(seen.contents[name][1] for name in seen.unknown)
    return seen.moved_bytes_if_given_back + unseen + unknown


def _weights_within_budget(evidence: LogitsEvidence) -> Criterion:
    row = Row(
        "weights_within_budget",
        "The weights were used from no more device memory than the budget, in every forward that was watched",
        unit="bytes",
    )
    budget = evidence.budget_bytes
    over = [found for found in evidence.system.watched if found.weights and _surely_held(found.weights) > budget]
    chosen = max(over or _seen(evidence), key=lambda found: _held(found.weights), default=None)
    doubts = [
        (found.weights, _gaps(found.weights))
        for found in evidence.watched
        if found.weights is None or not found.weights.complete or found.weights.distinct_bytes > budget
    ]
    observed = None if chosen is None or (doubts and not over) else _held(chosen.weights)
    missing = _NO_WITNESS
    if doubts and not over:
        missing = (
            doubts[0][1]
            or "memory that was let go, and is not PyTorch's own, may be held still; copy into another tensor"
        )
    return row.judge(
        observed,
        "<=",
        budget,
        evidence=_describe_watch(evidence) + "; the most memory that held weights at one moment, in which padding for "
        "alignment does not count, and host memory neither",
        missing=missing,
        failed=f"in {chosen.place}" if chosen else "",
    )


def _held(seen: WeightEvidence | None) -> int:
    return seen.distinct_bytes if seen else 0


def _surely_held(seen: WeightEvidence) -> int:
    return seen.distinct_bytes_at_least


def _seen(evidence: LogitsEvidence) -> list[Watched]:
    return [found for found in evidence.system.watched if found.weights is not None]


def weights_were_right(evidence: LogitsEvidence) -> bool:
    """Whether weights were seen in use, and none of them had other bytes than the reference's."""
    seen = [found.weights for found in evidence.watched if found.weights is not None]
    return any(weights.used_bytes for weights in seen) and not any(weights.different for weights in seen)


def _weights_at_use(evidence: LogitsEvidence) -> Criterion:
    row = Row(
        "weights_at_use",
        "Every weight had the reference's bytes when it was used, in every forward that was watched",
        unit="weights",
    )
    seen = [found.weights for found in evidence.watched]
    different = sorted({name for weights in seen if weights for name in weights.different})
    gap = next(
        (_gaps(weights) for weights in seen if weights is None or not weights.complete), "" if seen else _NO_WITNESS
    )
    owners: dict[str, str] = {}
    for weights in seen:
        owners |= dict(weights.bytes_of) if weights else {}
    return row.judge(
        len(different) if different or not gap else None,
        "==",
        0,
        evidence=_describe_watch(evidence) + "; 64-bit digests taken on the device right before the use",
        missing=gap,
        failed=describe_wrong(different, owners),
    )


def _used_every_time(evidence: LogitsEvidence) -> Criterion:
    """A forward without a weight, among others of its kind with all of them, was answered by something else."""
    row = Row(
        "weights_used_every_time",
        "Every forward that was watched used the weights, as others of its kind did",
        unit="forwards",
    )
    lost = [found for found in evidence.watched if found.weights is None]
    kinds = {found.place.phase for found in evidence.watched if found.weights is not None}
    without = [found for found in lost if found.place.phase in kinds]
    excuse = next((found.unseen_code for found in without if found.unseen_code), "")
    missing = _NO_WITNESS
    if excuse:
        missing = f"in {without[0].place} no weight was seen in use, as in others of its kind: {excuse}"
    return row.judge(
        None if excuse or (len(kinds) < len(PHASES) and not without) else len(without),
        "==",
        0,
        evidence=_describe_watch(evidence),
        missing=missing,
        failed=f"in {without[0].place} no weight was used, and the answer came from elsewhere" if without else "",
    )


def _claimed_vs_planned(evidence: LogitsEvidence) -> Criterion:
    """What was fetched ahead while the system opened, the first forward need not claim again. A system that fetches
    ahead by itself may be further ahead after one forward than after another, by what it has room for."""
    row = Row(
        "bytes_claimed_vs_planned",
        "The system claims to have moved what it planned, in every forward",
        unit="forwards",
    )
    planned = evidence.system.predicted_bytes
    claims = [(run_pass.number, claim) for run_pass in evidence.system.passes for claim in run_pass.claims]
    if planned is None:
        return row.skip("the system has no plan")
    known = [(number, claim) for number, claim in claims if claim is not None]
    if len(known) < len(claims):
        return row.skip(_NO_COUNT)
    ahead = bool(known) and known[0][1] < planned
    wrong = [(number, claim) for number, claim in known[ahead:] if claim != planned]
    example = f"in pass {wrong[0][0]} a forward claims {wrong[0][1]:,} bytes, the plan is {planned:,}" if wrong else ""
    text = f"the system's own count before and after each of {len(claims)} forwards"
    ahead_bytes = _fetched_ahead(evidence, [claim for _, claim in known], planned) if wrong else []
    if ahead_bytes:
        text += f"; it fetches ahead by itself, up to {format_bytes(max(ahead_bytes))}, so {len(wrong)} of them claim "
        text += "what others lack"
        wrong = []
    return row.judge(len(wrong), "==", 0, evidence=text, failed=example)


def _fetched_ahead(evidence: LogitsEvidence, claims: Sequence[int], planned: int) -> list[int]:
    """Return the bytes that lay ready after each forward, of a system that fetches ahead by itself; else nothing.

    Behind the n-th forward it has moved what n forwards need, and beyond that no more than the budget has room for. Who
    is further ahead after one forward is less so after another: a count that is off to one side alone is off.
    """
    opened = min(evidence.system.claimed_at_open or 0, evidence.budget_bytes)
    ahead = [opened + total - number * planned for number, total in enumerate(accumulate(claims), start=1)]
    steps = [claim - planned for claim in claims[1:] if claim != planned]
    drifts = len(steps) > 1 and (min(steps) > 0 or max(steps) < 0)
    return ahead if min(ahead) >= 0 and max(ahead) <= evidence.budget_bytes and not drifts else []


def _claimed_vs_witnessed(evidence: LogitsEvidence) -> Criterion:
    """Two-sided. A prefetch may shift what one forward claims, so too much is judged over all of them."""
    title = "The system claims no less than was certainly written, and no more than sixteen copies for every use"
    row = Row("bytes_claimed_vs_witnessed", title, unit="bytes")
    claims = [claim for run_pass in evidence.system.passes for claim in run_pass.claims if claim is not None]
    if not claims:
        return row.skip(_NO_COUNT)
    text = _describe_watch(evidence) + ", and the system's own count before and after them"
    pairs = [
        (found.claim, found.weights.moved_bytes_lower_bound, found.place)
        for found in evidence.watched
        if found.weights is not None and found.claim is not None and found.place != _first_forward(evidence)
    ]
    if not pairs:
        return row.judge(None, ">=", 0, evidence=text, missing=_NO_WITNESS)
    used = max(found.weights.every_use_bytes for found in evidence.watched if found.weights is not None)
    used = max([used, *(found.reference.every_use_bytes for found in evidence.watched)])
    mean, most = sum(claims) // len(claims), _MOST_COPIES * used + evidence.budget_bytes // len(claims)
    if mean > most:
        why = "that is more than sixteen copies of every weight for every time that it is used"
        return row.judge(mean, "<=", most, evidence=text, failed=f"claimed for a forward, on average: {why}")
    if evidence.system.encodes:
        return row.skip("it claims bytes on the wire, and the weights that were seen have more than travel encoded")
    claim, least, place = min(pairs, key=lambda pair: pair[0] - pair[1])
    return row.judge(claim, ">=", least, evidence=text, failed=f"in {place} more was written than the system counted")


def _first_forward(evidence: LogitsEvidence) -> object:
    return evidence.system.spans[0].place if evidence.system.spans else None


def _describe_watch(evidence: LogitsEvidence) -> str:
    """Say how many forwards of each kind were watched, of how many, and what that is worth."""
    places = Counter(found.place.phase for found in evidence.system.watched)
    every = Counter(span.place.phase for span in evidence.system.spans)
    quiet = sum(found.quiet for found in evidence.system.watched)
    kinds = " and ".join(f"{places[phase]} of {every[phase]} {_PLURAL[phase]}" for phase in PHASES)
    return (
        f"weight witness: {kinds}, drawn at random, {quiet} of them without a sign that they were watched"
        f"; what is done otherwise in a tenth of {_PLURAL['decode']} is seen with "
        f"{100 * (1 - 0.9 ** places['decode']):.0f} %, in half of them with {100 * (1 - 0.5 ** places['decode']):.4g} %"
    )


_PLURAL = {"prefill": "prefills", "decode": "decode steps"}


def describe_wrong(names: Sequence[str], owners: dict[str, str]) -> str:
    """Say which weights were wrong and whose bytes they had, layer by layer."""
    layers: dict[tuple[str, str], list[str]] = {}
    for name in names:
        if name in owners:
            layers.setdefault((_layer(name), _layer(owners[name])), []).append(name)
    own = [name for name in names if name not in owners]
    parts = []
    for (layer, of), members in sorted(layers.items(), key=lambda item: (-len(item[1]), item[0])):
        whole = layer != of and len(members) > 1
        first = f"{layer} had the bytes of {of} ({len(members)} weights)" if whole else ""
        parts.append(first or ", ".join(f"{name} had the bytes of {owners[name]}" for name in members[:2]))
    shown = "; ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")
    rest = f"{_names(own)} had bytes of no weight" if own and parts else _names(own)
    return "; ".join(text for text in (shown, rest) if text)


_NOT_OF_REFERENCE = "weights in another form than the reference's, or with the bytes of some experts alone"


def _layer(name: str) -> str:
    """Return the part of a weight's name up to its layer's number; without one, the whole name."""
    found = re.match(r".*?\.\d+(?=\.)", name)
    return found.group() if found else name


def _gaps(seen: WeightEvidence | None) -> str:
    """Return what is missing for a verdict on the weights."""
    if seen is None:
        return _NO_WITNESS
    unseen, unknown = _names(seen.unseen), _names(seen.unknown)
    parts = [f"weights never seen in use: {unseen} ({_HOW_TO_BE_SEEN})"] if unseen else []
    return "; ".join(parts + ([f"{_NOT_OF_REFERENCE}: {unknown}"] if unknown else []))


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
