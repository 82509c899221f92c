"""Tables of the agents check, from an outcome alone."""

from __future__ import annotations

from html import escape
from statistics import median

from djinn_checks.measurements.agents import AgentsTimings, Said, read, read_timings
from djinn_checks.outcome import Outcome, Status, format_quantity
from djinn_checks.report.tables import Html, render_table, status_chip
from djinn_checks.units import GB, format_bytes, format_seconds

_PROOFS = (
    ("Its KV left the device", ("kv_left_device", "swaps_counted", "kv_out_on_link")),
    (
        "It came back",
        (
            "kv_returned",
            "restores_counted",
            "kv_from_host",
            "loads_counted",
            "kv_in_on_link",
            "bytes_equal",
            "digest_equal",
        ),
    ),
    ("It was not computed again", ("prefill_counted", "rounding_is_kept", "first_token_is_kept")),
    ("The agent is who it was", ("twins_are_twins", "text_equals_twin", "logprobs_equal_twin", "coherent")),
)
_GAIN_NOTE = "By the client's clock. What a restore saves grows with the session; what it costs, too, and more slowly."
_NOTHING = Html("<p>Nothing was measured.</p>")


def tabulate_proofs(outcome: Outcome) -> Html:
    """Return the four proofs, each with what it rests on."""
    known = {row.name: row for row in outcome.criteria}
    rows = []
    for proof, names in _PROOFS:
        for name in names:
            row = known.get(name)
            if row is None:
                continue
            seen = row.reason if row.status is Status.SKIP else format_quantity(row.observed, row.unit)
            rows.append((proof, row.title, status_chip(row.status), seen))
            proof = ""
    if not rows:
        return _NOTHING
    return render_table(
        "Four proofs, and no pass without all of them", ("Proof", "Evidence", "Status", "Seen"), rows, numeric=False
    )


def tabulate_twins(outcome: Outcome) -> Html:
    """Return the sleeper's text beside its twins', turn by turn, the first place that differs marked."""
    turns = read(outcome.measurements).get("turns") or []
    rows = []
    for number, turn in enumerate(turns):
        hot = turn["hot"]
        cold = "" if turn["cold"] is None else _mark_difference(turn["cold"], hot)
        rows.append((f"{number + 1}", _mark_difference(turn["slept"], hot), _mark_difference(hot, hot), cold))
    if not rows:
        return _NOTHING
    return render_table(
        "What was said, turn by turn",
        ("Turn", "Slept before it", "Twin that never slept", "Twin that was computed anew"),
        rows,
        numeric=False,
        note="The first token that differs from the twin that never slept is marked. A recomputed text may be the same "
        "word for word; only its log-probabilities give it away.",
    )


def tabulate_sleeps(outcome: Outcome) -> Html:
    """Return size, time and rate of each move."""
    sleeps, timings = read(outcome.measurements).get("sleeps") or [], read_timings(outcome.timings)
    if not sleeps:
        return _NOTHING
    rows = []
    for number, (sleep, timed) in enumerate(zip(sleeps, timings["sleeps"], strict=True)):
        asleep, woken = timed["swap"], timed["restore"]
        rows.append(
            (
                f"{number + 1}",
                format_bytes(sleep["kv_bytes"]),
                format_seconds(timed["woken_s"] - timed["told_s"]),
                _move(timings, "out", number, sleep["kv_bytes"], asleep["swap_s"] if asleep else None),
                _move(timings, "in", number, sleep["kv_bytes"], woken["restore_s"] if woken else None),
                format_seconds(timed["wake_s"]),
                format_seconds(_at(timings["wake_hot_s"], number)),
                format_seconds(_at(timings["wake_cold_s"], number)),
            )
        )
    heads = ("Sleep", "KV", "Asleep", "Swap-out", "Restore", "First token after", "Never slept", "Computed anew")
    return render_table(
        "Each sleep",
        heads,
        rows,
        note="Swap-out and restore by the server's account, and on a GPU by the link's counters, with their share of "
        "its ceiling; first tokens by the client's clock, for the sleeper and for its twins on the same turn.",
    )


def tabulate_gain(outcome: Outcome) -> Html:
    """Return what users wait for after a sleep, with the KV kept and without, and what filled the device."""
    timings = read_timings(outcome.timings)
    if not timings.get("sleeps"):
        return _NOTHING
    woken, cold, hot = [sleep["wake_s"] for sleep in timings["sleeps"]], timings["wake_cold_s"], timings["wake_hot_s"]
    rows = [
        ("First token after a sleep, the KV restored", _median(woken)),
        ("First token of the same turn, all of it computed anew", _median(cold)),
        ("First token of the same turn without a sleep", _median(hot)),
    ]
    if woken and cold:
        saved = median(cold) - median(woken)
        words = "Saved by a restore" if saved >= 0 else "Lost by a restore"
        rows.append((f"{words}, of recomputing", f"{format_seconds(abs(saved))}, {abs(saved) / median(cold):.0%}"))
    return render_table("What users wait for", ("What", "Time"), [*rows, *_pressure_rows(timings)], note=_GAIN_NOTE)


def _pressure_rows(timings: AgentsTimings) -> list[tuple[str, str]]:
    crowd = timings.get("crowd")
    if not crowd:
        return []
    load, found = crowd.get("offered_load"), crowd.get("pressure")
    rows = [] if load is None else [("Load that all agents offered, of what the server can do", f"{load:.2f}")]
    if not found:
        return rows
    left = found["left_for_room"] + found["left_by_timer"] + found["left_when_told"]
    return [
        *rows,
        ("Time with the device within 10 % of its budget", f"{found['near_budget']:.0%} of {found['looks']:,} looks"),
        ("Sessions that left because another needed the place", f"{found['left_for_room']} of {left}"),
        ("Sessions that left by an idle timer", f"{found['left_by_timer']} of {left}"),
        ("Sessions that left when they were told to", f"{found['left_when_told']} of {left}"),
    ]


def _median(seconds: list[float]) -> str:
    return f"{format_seconds(median(seconds))}, median of {len(seconds)}" if seconds else "unknown"


def _move(timings: AgentsTimings, direction: str, number: int, nbytes: float, seconds: float | None) -> str:
    ceiling = timings["ceilings_bytes_per_s"].get(direction)
    told = f"{format_seconds(seconds)}, {_rate(nbytes / seconds, ceiling)}" if seconds else "unknown"
    timed = (timings.get("moves_on_link_s") or {}).get(direction) or []
    if number >= len(timed):
        return told
    _, greatest_s = timed[number]
    return f"{told}; on the link {_rate(nbytes / greatest_s, ceiling)}"


def _rate(bytes_per_s: float, ceiling: float | None) -> str:
    share = f" ({bytes_per_s / ceiling:.1%})" if ceiling else ""
    return f"{bytes_per_s / GB:.3g} GB/s{share}"


def _at(values: list[float], place: int) -> float | None:
    return values[place] if place < len(values) else None


def _mark_difference(said: Said, twin: Said) -> Html:
    pieces, others = said["pieces"], twin["pieces"]
    same = 0
    while same < min(len(pieces), len(others)) and pieces[same] == others[same]:
        same += 1
    head = escape("".join(pieces[:same]))
    if same == len(pieces) == len(others):
        return Html(f"<q>{head}</q>")
    marked = escape(pieces[same]) if same < len(pieces) else "∅"
    return Html(f"<q>{head}<mark>{marked}</mark>{escape(''.join(pieces[same + 1 :]))}</q>")
