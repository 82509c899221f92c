"""The rows of the host check about each link: alone, against its likes, and against its generation and width."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping

from djinn_checks.checks.host.accounts import Account, list_accounts
from djinn_checks.checks.host.driver import BOTH, D2H, H2D
from djinn_checks.checks.host.evidence import DIRECTIONS, HostEvidence, Seen
from djinn_checks.instruments.link_health import HealthSample, most_carried, most_replays
from djinn_checks.instruments.payload import ANSWER_BYTES, LARGEST_REQUEST_BYTES
from djinn_checks.outcome import Criterion, Row
from djinn_checks.units import GB, format_bytes

_ENCODING = {1: 0.8, 2: 0.8, 3: 128 / 130, 4: 128 / 130, 5: 128 / 130}
"""Bits of data in those on the lane, by generation (PCI-SIG)."""
_STARTS_S = 0.1
"""After the start of a stage: a link that rested is trained up by then."""
_SLOWING = ("hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "external power brake")
_BREAKING = ("fatal_errors", "non_fatal_errors", "replay_rollovers")


def payload_limit(generation: int | None, width: int | None) -> float | None:
    """Return the most payload that a link carries one way, in bytes/s, by its lanes; None where that is not known.

    256 bytes of data a packet, and 20 beside them: what no measurement exceeds. An H200's x16 of generation 5 has 58.4
    GB/s by this, and reaches 55.4.
    """
    wire, coded = most_carried(generation, width), _ENCODING.get(generation or 0)
    if wire is None or coded is None:
        return None
    return wire * coded * LARGEST_REQUEST_BYTES / (LARGEST_REQUEST_BYTES + ANSWER_BYTES)


def judge_links(evidence: HostEvidence) -> tuple[Criterion, ...]:
    """Return the rows about each link by itself."""
    return (
        _copies_arrived(evidence),
        _counted_vs_copied(evidence),
        _alone_like_others(evidence),
        _alone_of_width(evidence),
        _duplex(evidence),
        _link_at_its_best(evidence),
        _link_replays(evidence),
        _link_errors(evidence),
        _clocks_not_slowed(evidence),
        _link_recoveries(evidence),
    )


def _copies_arrived(evidence: HostEvidence) -> Criterion:
    row = Row("copies_arrived", "The bytes of all copies arrived", unit="link(s)")
    wrong = [link.uuid for link in evidence.seen if link.verified is False]
    unknown = [link.uuid for link in evidence.seen if link.verified is None]
    return row.judge(
        None if unknown and not wrong else len(wrong),
        "==",
        0,
        evidence="compared on both sides behind the last stage",
        missing=f"not known of {', '.join(unknown)}",
        failed=f"other bytes lie there than were sent: {', '.join(wrong)}; is memory or a link defective?",
    )


def _counted_vs_copied(evidence: HostEvidence) -> Criterion:
    row = Row("counted_vs_copied", "The counters of each link count its own copies, and nobody else's", unit="share")
    accounts = list_accounts(evidence)
    known = [account for account in accounts if account.error is not None]
    worst = max(known, key=lambda account: account.error or 0.0, default=None)
    error = worst.error if worst else None
    lost = len(accounts) - len(known)
    wrong = error is not None and error > evidence.params.count_tolerance
    return row.judge(
        error if wrong or not lost else None,
        "<=",
        evidence.params.count_tolerance,
        evidence=f"payload by the counters against bytes copied, {len(known)} times: each link in each stage, also "
        "while it rests",
        missing=f"in {lost} of {len(accounts)} places the counters have no evidence"
        if accounts
        else "nothing was driven",
        failed=_say_wrong(worst, known) if worst else "",
    )


def _say_wrong(worst: Account, accounts: list[Account]) -> str:
    """Return what was counted in the worst place, and whose counters saw it."""
    counted = worst.counted or {}
    what = {H2D: "to the device", D2H: "to the host"}
    said = ", ".join(
        f"{format_bytes(counted.get(way))} {words} where {format_bytes(worst.copied[way])} were copied"
        for way, words in what.items()
    )
    where = f"{worst.uuid}, {worst.stage.kind} {worst.stage.direction}: counted {said}"
    beside = [
        other.uuid
        for other in accounts
        if other.stage is worst.stage and other.uuid != worst.uuid and (other.error or 0.0) > 0.1
    ]
    return f"{where}; so do those of {', '.join(beside)}: are counters swapped?" if beside else where


def _alone_like_others(evidence: HostEvidence) -> Criterion:
    row = Row("alone_like_others", "Each link alone is as fast as the others of its kind", unit="share of their median")
    kinds: dict[tuple[object, ...], list[Seen]] = defaultdict(list)
    for link in evidence.seen:
        kinds[link.plan.name, link.plan.max_generation, link.plan.max_width].append(link)
    shares: dict[tuple[str, str], float] = {}
    for links in (links for links in kinds.values() if len(links) > 1):
        for way in DIRECTIONS:
            rates = {link.uuid: evidence.alone[link.uuid][way] for link in links if way in evidence.alone[link.uuid]}
            if len(rates) > 1:  # of two the faster is the measure: a median would be half the slower's
                like = max(rates.values()) if len(rates) == 2 else statistics.median(rates.values())
                shares |= {(uuid, way): rate / like for uuid, rate in rates.items()}
    if len(evidence.seen) == len(kinds):
        return row.skip("there is no other of its kind")
    return _judge_slowest(
        evidence,
        row,
        shares,
        evidence.params.alike,
        how="the fastest round of each direction; of two links the faster is the measure",
        missing="no two links were driven",
    )


def _alone_of_width(evidence: HostEvidence) -> Criterion:
    row = Row("alone_of_width", "Each link alone is as fast as its generation and width allow", unit="share of payload")
    shares: dict[tuple[str, str], float] = {}
    for link in evidence.seen:
        limit = payload_limit(link.plan.max_generation, link.plan.max_width)
        if limit is not None:
            shares |= {(link.uuid, way): evidence.alone[link.uuid][way] / limit
                       for way in (H2D, D2H) if way in evidence.alone[link.uuid]}  # fmt: skip
    if not _is_pcie(evidence):
        return row.skip("a link within host memory has no lanes")
    return _judge_slowest(
        evidence,
        row,
        shares,
        evidence.params.of_width,
        how="the fastest round against the most that GPU and slot can do together, less what packets cost",
        missing="generation and width are not known, or no rate is stated for them",
    )


def _judge_slowest(
    evidence: HostEvidence, row: Row, shares: Mapping[tuple[str, str], float], least: float, *, how: str, missing: str
) -> Criterion:
    """Hold the least of the shares, by link and direction, against what is asked for, and name it."""
    worst = min(shares, key=lambda key: shares[key], default=None)
    return row.judge(
        None if worst is None else shares[worst],
        ">=",
        least,
        evidence=how,
        missing=missing,
        failed=f"{worst[0]} {worst[1]} has {evidence.alone[worst[0]][worst[1]] / GB:.2f} GB/s" if worst else "",
    )


def _duplex(evidence: HostEvidence) -> Criterion:
    row = Row("duplex", "Each link carries more both ways at once than one way", unit="times one direction")
    gains = {
        link.uuid: rates[BOTH] / max(rates[H2D], rates[D2H])
        for link in evidence.seen
        if (rates := evidence.alone[link.uuid]).keys() >= {H2D, D2H, BOTH}
    }
    worst = min(gains, key=lambda uuid: gains[uuid], default="")
    return row.judge(
        gains.get(worst),
        ">=",
        evidence.params.duplex_gain,
        evidence="both directions together over the faster one, each link alone",
        missing="no link was driven both ways",
        failed=f"{worst}: the lanes of either direction are its own, so something else is in the way",
    )


def _is_pcie(evidence: HostEvidence) -> bool:
    return any(link.plan.subject == "pcie" for link in evidence.seen)


def list_looks(evidence: HostEvidence, link: Seen) -> list[HealthSample]:
    """Return the looks at a link's health while it was at work: only then generation and width mean something."""
    spans = [
        (copies.parts[0].start_s, max(part.start_s + part.seconds for part in copies.parts))
        for stage in evidence.stages
        if (copies := stage.copies.get(link.uuid)) is not None
    ]
    samples = link.health.samples if link.health else ()
    return [look for look in samples if any(a + min(_STARTS_S, (b - a) / 3) <= look.t_s <= b for a, b in spans)]


def _link_at_its_best(evidence: HostEvidence) -> Criterion:
    row = Row("link_at_its_best", "At work each link has the generation and width that it can have", unit="link(s)")
    below, unknown = {}, []
    for link in evidence.seen:
        best = (link.plan.max_generation, link.plan.max_width)
        looks = list_looks(evidence, link)
        told = [look for look in looks if look.generation is not None and look.width is not None]
        if None in best or not told:
            unknown.append(link.uuid)
            continue
        less = [look for look in told if (look.generation, look.width) != best]
        if less:
            below[link.uuid] = (
                f"{less[0].trained} at {len(less)} of {len(told)} looks, could be gen {best[0]} x{best[1]}"
            )
    return row.judge(
        None if unknown and not below else len(below),
        "==",
        0,
        evidence="NVML during the stages of each link, against the most that GPU and slot can do together",
        missing=f"not told of {', '.join(unknown)}",
        failed="; ".join(f"{uuid} was {said}" for uuid, said in below.items())
        + ": reseat it, look at risers and cables, and at the slot's bifurcation",
    )


def _differences(evidence: HostEvidence, name: str) -> dict[str, int | None]:
    span = evidence.idle_s[0], evidence.end_s
    return {link.uuid: link.health.difference(name, *span) if link.health else None for link in evidence.seen}


def _link_replays(evidence: HostEvidence) -> Criterion:
    row = Row("link_replays", "No link sends more packets again than the PCIe specification allows", unit="link(s)")
    seconds = evidence.end_s - evidence.idle_s[0]
    most = {link.uuid: most_replays(link.plan.max_generation, link.plan.max_width, seconds) for link in evidence.seen}
    found = {uuid: count for uuid, count in _differences(evidence, "replays").items() if count is not None}
    beyond = {uuid: count for uuid, count in found.items() if (limit := most[uuid]) is not None and count > limit}
    if not any(most[uuid] is not None for uuid in found):
        return row.skip("these GPUs or the driver do not tell, or the specification states no rate for such links")
    return row.judge(
        len(beyond),
        "==",
        0,
        evidence=f"NVML's counters over {seconds:.0f} s; one bit in 10^12 may be wrong on each lane",
        failed="; ".join(f"{uuid}: {count:,} replays, {most[uuid]:,} are allowed" for uuid, count in beyond.items()),
    )


def _link_errors(evidence: HostEvidence) -> Criterion:
    row = Row("link_errors", "No link had an error that a replay does not mend", unit="error(s)")
    found = {
        (uuid, name): count
        for name in _BREAKING
        for uuid, count in _differences(evidence, name).items()
        if count is not None
    }
    if not found:
        return row.skip("these GPUs or the driver do not tell")
    return row.judge(
        sum(found.values()),
        "==",
        0,
        evidence="NVML's counters of fatal and non-fatal errors and of replay rollovers, over the run",
        failed="; ".join(
            f"{uuid}: {count:,} {name.replace('_', ' ')}" for (uuid, name), count in found.items() if count
        ),
    )


def _clocks_not_slowed(evidence: HostEvidence) -> Criterion:
    row = Row("clocks_not_slowed", "No GPU is slowed by heat or power while it copies", unit="GPU(s)")
    looks = {link.uuid: list_looks(evidence, link) for link in evidence.seen}
    if not any(look.clock_reasons is not None for found in looks.values() for look in found):
        return row.skip("these GPUs or the driver do not tell")
    slowed = {
        uuid: reasons
        for uuid, found in looks.items()
        if (reasons := sorted({reason for look in found for reason in look.slowed_by if reason in _SLOWING}))
    }
    return row.judge(
        len(slowed),
        "==",
        0,
        evidence="NVML's reasons for clocks below the highest, during the stages",
        failed="; ".join(f"{uuid}: {', '.join(reasons)}" for uuid, reasons in slowed.items()),
    )


def _link_recoveries(evidence: HostEvidence) -> Criterion:
    """A link that goes from rest to work is trained up: at most a recovery or two for each stage it enters."""
    title = "No link is trained anew more often than stages begin and end"
    row = Row("link_recoveries", title, unit="recoveries a stage", required=False)
    found = {uuid: count for uuid, count in _differences(evidence, "l0_to_recovery").items() if count is not None}
    if not found or not evidence.stages:
        return row.skip("these GPUs or the driver do not tell")
    worst = max(found, key=lambda uuid: found[uuid])
    return row.judge(
        found[worst] / len(evidence.stages),
        "<=",
        2,
        evidence=f"NVML's counter of ways from L0 to recovery, over {len(evidence.stages)} stages",
        failed=f"{found[worst]:,} times on {worst}",
    )
