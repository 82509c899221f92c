"""Tables of the logits check, from an outcome's measurements alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from djinn_checks.measurements.logits import Witness, read
from djinn_checks.outcome import Outcome, format_value
from djinn_checks.report.logits.phases import measured_phases
from djinn_checks.report.tables import Html, as_number, format_share, name_some, render_table
from djinn_checks.units import format_bytes


def tabulate_statistics(outcome: Outcome) -> Html:
    """Return all statistics, prefill and decode, each beside its noise floor."""
    phases = measured_phases(outcome)
    if not phases:
        return Html("<p>No logits were compared, so there are no statistics.</p>")
    sides = [side for _, system, floor in phases for side in (system, floor)]
    columns = ["Statistic"] + [f"{phase}, {side}" for phase, _, _ in phases for side in ("system", "floor")]
    rows = [(title, *(render(_dig(side, key)) for side in sides)) for title, key, render in _STATISTICS]
    note = "The pass with the most differences. The floor is the reference run a second time: what chance alone does."
    return render_table("Statistics of the logits", columns, rows, note=note)


def tabulate_bytes(outcome: Outcome) -> Html:
    """Return the bytes that were planned, claimed and witnessed."""
    passes = read(outcome.measurements).get("passes") or []
    if not passes:
        return Html("<p>No pass was completed, so no bytes were counted.</p>")
    columns = ("Pass", "Forwards", "Planned", "Claimed", "Logits that differ", "Largest L2 norm")
    rows = [
        (
            row["pass"], row.get("forwards"), _exact_bytes(row["predicted_bytes"]), _exact_bytes(row["claimed_bytes"]),
            row["unequal_elements"], as_number(row["l2_position_max"]),
        )
        for row in passes
    ]  # fmt: skip
    note = "Planned and claimed by the system itself, over all forwards of the pass. Bytes are decimal (1 MB = 10⁶ B)."
    return render_table("Bytes moved, pass by pass", columns, rows, note=note)


def tabulate_witness(outcome: Outcome) -> Html:
    """Return what the weight witness saw in the forward in which least moved, beside the budget."""
    seen = read(outcome.measurements).get("witness")
    if not seen:
        return Html("<p>The weight witness saw no weight in use.</p>")
    owners = seen.get("bytes_of") or {}
    rows = [
        ("Budget for weights on the device", _exact_bytes(seen["budget_bytes"])),
        ("Weights used", _exact_bytes(seen["used_bytes"])),
        ("Of these, read where they lie in host memory", _exact_bytes(seen.get("host_bytes", 0))),
        ("Most device memory that held them at one moment", _exact_bytes(seen["distinct_bytes"])),
        ("Certainly written for the forward (lower bound)", _exact_bytes(seen["moved_bytes_lower_bound"])),
        ("Weights seen", f"{seen['weights']:,}"),
        ("Weights whose bytes differed", name_some(seen["different"])),
        ("Whose bytes these had", name_some([f"{name}: {owner}" for name, owner in owners.items()])),
        ("Forwards watched", _count_watched(seen)),
    ]
    if not owners:
        del rows[-2]
    note = "The watched forward in which least moved. More used than memory to hold it: the rest was written meanwhile."
    return render_table("Weight witness", ("What", "Value"), rows, note=note)


def _count_watched(seen: Witness) -> str:
    if "forwards" not in seen:
        return "1"
    drawn = f"{seen['prefills']:,} prefills and {seen['decode_steps']:,} decode steps of {seen['forwards']:,} forwards"
    return f"{drawn}, drawn at random; {seen['quiet']:,} of them without a sign of it"


def tabulate_prompts(outcome: Outcome) -> Html:
    """Return the prompts that were run, by number, and how they begin."""
    prompts = read(outcome.measurements).get("prompts") or []
    if not prompts:
        return Html("<p>No prompt was run.</p>")
    rows = [(prompt["index"], prompt["tokens"], _beginning(prompt["text"])) for prompt in prompts]
    note = "By these numbers figures and reasons call them."
    return render_table("Prompts that were run", ("Prompt", "Tokens", "Begins"), rows, note=note, numeric=False)


def _beginning(text: str, length: int = 140) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[:length].rstrip()}…"


def _exact_bytes(count: int | None) -> Html:
    exact = f"<small>{count:,} bytes</small>" if count is not None and abs(count) >= 1000 else ""
    return Html(format_bytes(count) + exact)


def _dig(values: Mapping[str, Any], path: str) -> Any:
    found: Any = values
    for name in path.split("."):
        found = (found or {}).get(name)
    return found


def _number(value: Any) -> str:
    return format_value(value if value is None or isinstance(value, int) else as_number(value))


def _share(value: Any) -> str:
    return format_share(as_number(value))


def _precise(value: Any) -> str:
    """Nine digits: a perplexity ratio differs from 1 in the last of them."""
    return "unknown" if value is None else f"{float(value):.9g}"


_STATISTICS = (
    ("Positions", "positions", _number),
    ("Logits compared", "elements", _number),
    ("Logits that differ", "unequal_elements", _number),
    ("Logits not finite", "nonfinite", _number),
    ("L2 norm at a position, largest", "l2_position_max", _number),
    ("L2 norm over a prompt, largest", "l2_whole_max", _number),
    ("Positions with neither small L2 nor the same top k", "neither_l2_nor_top_k", _number),
    ("Same top k tokens", "top_k_identical_share", _share),
    ("Same top token", "same_top_token_share", _share),
    ("KL divergence, mean (nats)", "kl.mean", _number),
    ("KL divergence, 99th percentile (nats)", "kl.p99", _number),
    ("KL divergence, largest (nats)", "kl.max", _number),
    ("Δp of the next token, mean (percentage points)", "delta_p.mean", _number),
    ("Δp of the next token, RMS (percentage points)", "delta_p.rms", _number),
    ("Δp of the next token, smallest (percentage points)", "delta_p.min", _number),
    ("Δp of the next token, largest (percentage points)", "delta_p.max", _number),
    ("Perplexity of the reference", "perplexity_reference", _number),
    ("Perplexity of the system", "perplexity_system", _number),
    ("Perplexity ratio", "perplexity_ratio", _precise),
    ("Distance in the last place, 99th percentile (ULP)", "ulp.p99", _number),
    ("Distance in the last place, largest (ULP)", "ulp.max", _number),
)
