"""Tables of the host check, from an outcome's measurements alone."""

from __future__ import annotations

from djinn_checks.measurements.host import LinkRow, PairRow, read
from djinn_checks.outcome import Outcome
from djinn_checks.report.link_names import shorten
from djinn_checks.report.tables import Html, render_table
from djinn_checks.units import GB, format_bytes, format_percent

_WAYS = {"h2d": "to the device", "d2h": "to the host", "both": "both ways"}
_NOTHING = Html("<p>No link was driven.</p>")


def tabulate_links(outcome: Outcome) -> Html:
    """Return which links there are, where they hang, and how they are trained."""
    found = read(outcome.measurements)
    links = found.get("links") or []
    if not links:
        return _NOTHING
    rows = [
        (
            link["uuid"],
            link["name"],
            f"gen {_say(link['max_generation'])} x{_say(link['max_width'])}",
            ", ".join(link["at_work"]) or "unknown",
            _say_place(link),
            _say_memory(link),
            _say(link["nvlinks"]),
        )
        for link in links
    ]
    rows += [(uuid, f"left out: {why}", "", "", "", "", "") for uuid, why in (found.get("left_out") or {}).items()]
    columns = ("Link", "GPU", "At best", "At work", "On the PCI bus", "Its host memory", "NVLinks up")
    return render_table("The links of this host", columns, rows, numeric=False)


def tabulate_link_rates(outcome: Outcome) -> Html:
    """Return each link's rates alone and all at once, its far memory and small copies, and their sum."""
    found = read(outcome.measurements)
    links = found.get("links") or []
    if not links:
        return _NOTHING
    names = shorten([link["uuid"] for link in links])
    rows = []
    for link in links:
        rows += [(f"{names[link['uuid']]} {words}", *_rates(link, way)) for way, words in _WAYS.items()]
    sums = {
        way: max((stage["bytes_per_s"] for stage in found.get("stages") or ()
                  if stage["kind"] == "together" and stage["direction"] == way), default=None)
        for way in _WAYS
    }  # fmt: skip
    rows += [(f"all {words}", "", _gb(sums[way]), "", "", "") for way, words in _WAYS.items()]
    columns = ("Link", "Alone", "All at once", "Of alone", "Alone, far node's memory", "4 KiB, median")
    note = "GB/s of payload, the fastest of all rounds; all at once: the round in which the sum was largest."
    return render_table("What each link carries", columns, rows, note=note)


def tabulate_accounts(outcome: Outcome) -> Html:
    """Return for each link the stage in which its counters were furthest from its copies."""
    rows = [
        (
            f"{row['uuid']}, {row['stage']}",
            format_bytes(row["copied_h2d"]),
            format_bytes(row["counted_h2d"]),
            format_bytes(row["copied_d2h"]),
            format_bytes(row["counted_d2h"]),
            "unknown" if row["error"] is None else f"{row['error']:.2%}",
        )
        for row in read(outcome.measurements).get("accounts") or ()
    ]
    if not rows:
        return _NOTHING
    columns = ("Link, in its worst stage", "Copied to it", "Counted", "Copied from it", "Counted", "Off by")
    note = "Payload; of a link at rest the error is held against what it could have carried."
    return render_table("Counters against copies", columns, rows, note=note)


def tabulate_pairs(outcome: Outcome) -> Html:
    """Return how each two GPUs are connected, and how fast they copy to each other."""
    found = read(outcome.measurements)
    pairs = found.get("pairs") or []
    if not pairs:
        return Html("<p>There are no two GPUs.</p>")
    rows = [
        (
            f"{pair['one']} and {pair['other']}",
            pair["meets_in"] or "unknown",
            _say_way(pair),
            _gb(pair["bytes_per_s"]),
            _gb(pair["back_bytes_per_s"]),
        )
        for pair in pairs
    ]
    columns = ("GPUs", "They meet in", "Copies go", "There, GB/s", "Back, GB/s")
    return render_table("From GPU to GPU", columns, rows, note=found.get("peers_missing") or "", numeric=False)


def tabulate_expected(outcome: Outcome) -> Html:
    """Return the figures of this host beside those that are expected of it."""
    found = read(outcome.measurements)
    figures, expected = found.get("figures") or {}, found.get("expected") or {}
    if not figures:
        return _NOTHING
    rows = [
        (name, f"{value:.4g}", f"{expected[name]:.4g}" if name in expected else "", _ratio(value, expected.get(name)))
        for name, value in figures.items()
    ]
    by = found.get("expected_by") or "nothing: give `expect`, or an earlier outcome by `against`"
    note = f"Expected by {by}. alone, sum, peer: GB/s; together, far: shares; latency: microseconds."
    return render_table("Figures of this host", ("Figure", "Found", "Expected", "Found / expected"), rows, note=note)


def _rates(link: LinkRow, way: str) -> tuple[str, ...]:
    share = link["share_of_alone"].get(way)
    latency = next((row["median_us"] for row in link["latencies"] if row["direction"] == way), None)
    return (
        _gb(link["alone"].get(way)),
        _gb(link["together"].get(way)),
        format_percent(share),
        _gb(link["alone_far"].get(way)) if way in link["alone_far"] else "",
        "" if latency is None else f"{latency:.1f} us",
    )


def _say_place(link: LinkRow) -> str:
    if link["pci"] is None:
        return "unknown"
    above = f" below {', '.join(link['ports'])}" if link["ports"] else ", nothing above it is shown"
    group = "" if link["iommu_group"] is None else f"; IOMMU group {link['iommu_group']}"
    acs = {True: "; peers are sent to the root (ACS)", False: "; peers may meet in a switch", None: ""}
    return f"{link['pci']}{above}{group}{acs[link['acs_redirects']]}"


def _say_memory(link: LinkRow) -> str:
    node = "unknown" if link["near_node"] is None else f"node {link['near_node']}"
    far = "" if link["far_node"] is None else f", far: node {link['far_node']}"
    return f"{node}{far}{', bound' if link['bound'] else ', not bound'}; GPU on {_say(link['numa_node'])}"


def _say_way(pair: PairRow) -> str:
    if pair["over_nvlink"]:
        return "over NVLink"
    return {True: "over PCIe, directly", False: "through host memory", None: "unknown"}[pair["can_peer"]]


def _ratio(value: float, expected: float | None) -> str:
    return "" if not expected else f"{value / expected:.3f}"


def _gb(bytes_per_s: float | None) -> str:
    return "unknown" if bytes_per_s is None else f"{bytes_per_s / GB:.4g}"


def _say(value: int | None) -> str:
    return "unknown" if value is None else str(value)
