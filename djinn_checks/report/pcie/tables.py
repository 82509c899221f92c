"""Tables of the PCIe check, from an outcome's measurements alone."""

from __future__ import annotations

from djinn_checks.measurements.pcie import CeilingRow, Limit, read
from djinn_checks.outcome import Outcome
from djinn_checks.report.pcie.by_gpu import by_gpu
from djinn_checks.report.tables import Html, format_share, render_table
from djinn_checks.units import GB, format_bytes, format_seconds

_DIRECTIONS = {"h2d": "host to device", "d2h": "device to host", "both": "both at once"}


@by_gpu
def tabulate_traffic(outcome: Outcome) -> Html:
    """Return predicted, claimed and counted bytes beside each other."""
    measured = read(outcome.measurements)
    found, link = measured.get("bytes"), measured.get("link")
    if not found:
        return Html("<p>Nothing was run, so there are no bytes to compare.</p>")
    counted, passes = found["counted"], found["passes"]
    named = (
        ("Planned by the system", found["predicted"]),
        (
            "Moved, by the recorded truth" if link and link["subject"] == "replay" else "Claimed by the system",
            found["claimed"],
        ),
        ("Counted at the link, as payload", counted),
        ("Counted at the link, on the wire", found["wire"]),
    )
    rows = [
        (name, format_bytes(value), _each(value, passes), _against(value, counted) if "wire" not in name else "")
        for name, value in named
    ]
    if found["witnessed_a_pass"] is not None:
        rows.append(("Certainly written (weight witness)", "", format_bytes(found["witnessed_a_pass"]), ""))
    note = (
        "Payload is what came, less what requests and answers cost, which copies of known size prove in the same run."
    )
    return render_table("Bytes received", ("What", "In the whole run", "A pass", "Against counted"), rows, note=note)


@by_gpu
def tabulate_limit(outcome: Outcome) -> Html:
    """Return how long a pass takes, beside the least time that its bytes need on the link."""
    passes, limit = read(outcome.measurements).get("passes"), _limit(outcome)
    if not passes:
        return Html("<p>A recorded trace does not say which passes ran.</p>")
    rows = [
        ("Passes", f"{passes['count']:,}"),
        ("Time a pass, mean", _seconds(passes["mean_s"])),
        ("Time a pass, median", _seconds(passes["median_s"])),
        ("Time a pass, shortest", _seconds(passes["min_s"])),
        ("Time a pass, 99th percentile", _seconds(passes["p99_s"])),
        ("Bytes a pass has to move, M - C", format_bytes(limit["needed_bytes"])),
        ("Least time for them at the ceiling, (M - C) / B", _seconds(limit["seconds"])),
        ("Limit over time a pass (1 is the limit)", _ratio(limit["ratio"])),
        ("Mean payload rate over the ceiling", _ratio(limit["streamed_of_ceiling"])),
        ("Opening the system", format_seconds(passes["open_s"])),
    ]
    return render_table("Time a pass, and the link's limit", ("What", "Value"), rows)


@by_gpu
def tabulate_ceilings(outcome: Outcome) -> Html:
    """Return the link's ceilings, with spread and proof of arrival."""
    link = read(outcome.measurements).get("link")
    measured = [(row, "before") for row in (link.get("ceilings") if link else None) or []]
    after = link.get("ceiling_after") if link else None
    measured += [(after, "after")] if after else []
    if not measured:
        return Html("<p>No ceiling was measured here: it comes from the recorded copy beside the trace.</p>")
    rows = [
        (
            f"{_DIRECTIONS[row['direction']]}, {_memory(row)}, {when} the run",
            f"{row['bytes_per_s'] / GB:.2f} GB/s",
            format_share(row["spread"]),
            f"{len(row['samples_s'])} × {format_bytes(row['nbytes'])}",
            "yes" if row["verified"] else "NO",
        )
        for row, when in measured
    ]
    columns = ("Copies", "Rate", "Spread", "Samples", "Bytes arrived")
    note = "Warmed up, timed by events on the device; spread is how much longer the slowest of them took."
    return render_table("What the link can carry", columns, rows, note=note)


def tabulate_preflight(outcome: Outcome) -> Html:
    """Return what the machine offers, with a remedy where something is missing."""
    measured = read(outcome.measurements)
    rows = measured.get("preflight") or []
    if measured.get("gpus"):
        return Html(
            "<p>On several GPUs there is none within the check; <code>djinn-checks preflight</code> asks all.</p>"
        )
    if not rows:
        return Html("<p>A replay needs nothing of this machine.</p>")
    words = {True: "ok", False: "missing", None: "unknown"}
    cells = [(row["name"], words[row["ok"]], row["found"], row["wanted"], row["remedy"]) for row in rows]
    return render_table("Preflight", ("What", "There", "Found", "Wanted", "Remedy"), cells, numeric=False)


def _limit(outcome: Outcome) -> Limit:
    unknown: Limit = {"needed_bytes": None, "seconds": None, "ratio": None, "streamed_of_ceiling": None}
    found = read(outcome.measurements).get("limit")
    return {**unknown, **found} if found else unknown


def _memory(row: CeilingRow) -> str:
    if row["kind"] == "host memory":
        return "within host memory"
    return "pinned" if row["pinned"] else "pageable"


def _each(value: float | None, passes: int | None) -> str:
    return "" if not passes else format_bytes(None if value is None else value / passes)


def _against(value: float | None, counted: float | None) -> str:
    if value is None or not counted:
        return "unknown"
    return f"{value / counted:.4f}"


def _seconds(value: float | None) -> str:
    """Return four digits: the times of a pass differ in the third."""
    if value is None:
        return "unknown"
    return f"{value:.4g} s" if value >= 1 else f"{value * 1e3:.4g} ms"


def _ratio(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
