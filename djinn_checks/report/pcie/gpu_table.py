"""The table of the GPUs that the PCIe check drove at once, from an outcome's measurements alone."""

from __future__ import annotations

from djinn_checks.measurements.pcie import read
from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.tables import Html, render_table, status_chip
from djinn_checks.units import GB, format_percent

ONE_LINK = "One link was driven; with `gpus: all` each GPU's flatline stands here, and their sum."


def tabulate_gpus(outcome: Outcome) -> Html:
    """Return each GPU's own verdict, what it received, and what that is of its rate alone."""
    gpus = read(outcome.measurements).get("gpus") or []
    if not gpus:
        return Html(f"<p>{ONE_LINK.replace('`', '')}</p>")
    rows = [
        (
            gpu["uuid"],
            status_chip(Status(gpu["status"])),
            format_rate(gpu["bytes_per_s"]),
            format_rate(gpu["alone_bytes_per_s"]),
            format_percent(gpu["share_of_alone"]),
            format_rate(gpu["ceiling_together_bytes_per_s"]),
            format_rate(gpu["ceiling_alone_bytes_per_s"]),
            ", ".join(name for name, status in gpu["statuses"].items() if status != "PASS") or "nothing",
        )
        for gpu in gpus
    ]
    together = read(outcome.measurements).get("together")
    total = together["sum_bytes_per_s"] if together else None
    columns = (
        "GPU", "Verdict", "Received", "Alone", "Of alone", "Ceiling, all at once", "Ceiling alone", "Not passed",
    )  # fmt: skip
    note = f"GB/s of payload; {format_rate(total)} in all. Each is judged against the ceiling of all at once."
    return render_table("Each GPU by itself", columns, rows, note=note, numeric=False)


def format_rate(bytes_per_s: float | None) -> str:
    """Return GB/s of bytes per second as text."""
    return "unknown" if bytes_per_s is None else f"{bytes_per_s / GB:.2f}"
