"""Tables of what kind of stream it was, and of how the link fared, from an outcome's measurements alone."""

from __future__ import annotations

from djinn_checks.measurements.pcie import FloorFacts, HealthFacts, ReaderFacts, read
from djinn_checks.outcome import Outcome
from djinn_checks.report.pcie.by_gpu import by_gpu
from djinn_checks.report.tables import Html, format_share, render_table
from djinn_checks.units import format_bytes


@by_gpu
def tabulate_stream(outcome: Outcome) -> Html:
    """Return the four figures that are kept apart, who read, and what of it was used."""
    measured = read(outcome.measurements)
    figures, reader = measured.get("figures"), measured.get("reader")
    if not figures or not reader:
        return Html("<p>Nothing counted the link, so there is no stream to describe.</p>")
    rows = [
        ("How full the wire is, of what large copies put there", _share(figures["wire_of_ceiling"])),
        ("Claimed for the wire, of what was counted", _share(figures["claimed_of_counted"])),
        ("Weight bytes a second, of the ceiling", _share(figures["weights_of_ceiling"])),
        ("Counted in a pass, of the least that has to come", _share(figures["counted_of_least"])),
        *_reader_rows(reader),
        *_floor_rows(measured.get("floor")),
    ]
    note = (
        "Weights may come faster than the ceiling only if they travel encoded, and that is believed only of weights "
        "that a pass was seen to use bit for bit."
    )
    return render_table("The stream in four figures", ("What", "Value"), rows, note=note)


def _reader_rows(reader: ReaderFacts) -> list[tuple[str, str]]:
    how = "what came, less what requests and answers cost" if reader["by_law"] else f"a ratio: {reader['why_not']}"
    sent = reader["sent_of_received"]
    wasted, used = reader["wasted_bytes"], reader["used_bytes"]
    read_bytes = None if wasted is None or used is None else wasted + used
    return [
        ("Who reads host memory", reader["says"]),
        ("Sent for each byte received, TX / RX", "unknown" if sent is None else f"{sent:.4f}"),
        ("Payload is", how),
        ("Payload, had data gone to the host meanwhile",
         f"{format_bytes(reader['least_bytes'])} to {format_bytes(reader['most_bytes'])}"),
        ("Of it, weights that passes could use", format_bytes(used)),
        ("Fetched and not used", f"{format_bytes(wasted)}, {format_share(wasted / read_bytes)}"
         if wasted is not None and read_bytes else "unknown"),
    ]  # fmt: skip


def _floor_rows(floor: FloorFacts | None) -> list[tuple[str, str]]:
    if not floor:
        return []
    fields = ", ".join(f"{name} {share:.1%}" for name, share in floor["share_of_field"].items())
    least = f"{format_bytes(floor['least_bytes'])}, {floor['least_bytes'] / floor['weight_bytes']:.1%}"
    return [
        ("Entropy of the weights, of their bytes", f"{least} (within {format_bytes(floor['error_bytes'])})"),
        ("By field of a number", fields or "unknown"),
    ]


@by_gpu
def tabulate_health(outcome: Outcome) -> Html:
    """Return how the link was trained, what it sent again, and what slowed the clocks."""
    health = read(outcome.measurements).get("health")
    if not health:
        return Html("<p>Nothing told the health of the link during the run.</p>")
    counted = [(name.replace("_", " "), _count(value)) for name, value in health["differences"].items()]
    rows = [
        ("trained as", ", ".join(_trainings(health))),
        ("clocks slowed by", _slowed(health)),
        *counted,
        ("replays that the specification allows", _count(health["most_replays"])),
    ]
    note = "Differences over the run: these counters began when the driver was loaded, and a healthy link has some."
    return render_table("The health of the link", ("What", "During the run"), rows, note=note)


def _trainings(health: HealthFacts) -> list[str]:
    """Return each training with the seconds that it held, in order of appearance."""
    names = [f"gen {second['generation'] or '?'} x{second['width'] or '?'}" for second in health["seconds"]]
    return [f"{name} at {names.count(name)} of {len(names)} looks" for name in dict.fromkeys(names)]


def _slowed(health: HealthFacts) -> str:
    reasons = [reason for second in health["seconds"] for reason in second["slowed_by"]]
    looks = len(health["seconds"])
    return (
        ", ".join(f"{name} at {reasons.count(name)} of {looks} looks" for name in dict.fromkeys(reasons)) or "nothing"
    )


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
