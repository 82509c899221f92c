"""Outcomes and notebooks for the report's tests: one of each status, in the logits check's real schema."""

from __future__ import annotations

from typing import Any

import nbformat
import numpy as np

from djinn_checks.outcome import Criterion, Failure, Outcome, Status, judge, skip
from djinn_checks.report.load import OUTCOME_MIME
from djinn_checks.report.logits.plots import plot_differences, plot_kl, plot_layers, plot_margins
from djinn_checks.report.logits.tables import tabulate_bytes, tabulate_prompts, tabulate_statistics, tabulate_witness
from djinn_checks.report.tables import render_environment, render_params
from djinn_checks.report.verdict import render_verdict

LAYERS = ["embeddings", *(f"model.layers.{n}" for n in range(30)), "logits"]
WITNESS = "weight witness: 6 of 18 prefills and 6 of 144 decode steps, drawn at random"
PASSES = "3 passes of 6 prompts, each against the resident model"
PARAMS = {"model": "smollm2", "system": "ring", "dtype": "float32", "budget_fraction": 0.25, "prompts": 6, "top_k": 5}
TABLES = (tabulate_statistics, tabulate_bytes, tabulate_witness, tabulate_prompts, render_params, render_environment)
PLOTS = (plot_differences, plot_kl, plot_margins, plot_layers)
STAND_IN = f'<figure><img alt="as in the notebook" src="data:image/svg+xml;base64,{"A" * 100_000}"></figure>'
"""In place of each figure of a notebook, which takes half a second to draw: a page has its own, made of the outcome."""
IMPORTS = """
from djinn_checks.report import plot_differences, plot_kl, plot_layers, plot_margins
from djinn_checks.report import render_environment, render_params, show_figure
from djinn_checks.report import tabulate_bytes, tabulate_prompts, tabulate_statistics, tabulate_witness
"""
ENVIRONMENT = {"device": "cuda:0", "cpu": {"model": "Example CPU", "cores": 16}, "gpu": {"name": "Example GPU"}}


def passed(**changes: Any) -> Outcome:
    found = measurements()
    criteria = (*_streaming(), *_equality(found), *_informative(0.0))
    summary = "ring on smollm2 (float32): 45,416,448 logits, all bit-equal in 3 passes; at least 404 MB moved"
    values: dict[str, Any] = {"measurements": found, "params": PARAMS, "environment": ENVIRONMENT}
    values |= {"timings": {"total_s": 41.5, "passes_s": [4.0, 3.9, 4.1]}, "started_at": "2026-01-02T03:04:05+00:00"}
    values |= {"check": "logits", "status": Status.PASS, "summary": summary, "criteria": criteria}
    return Outcome(**values | changes)


def failed(**changes: Any) -> Outcome:
    found = measurements(differing=True) | {"localisation": localisation()}
    criteria = (*_streaming(wrong=1), *_equality(found), *_informative(float("inf")))
    summary = "ring on smollm2 (float32): weights_at_use: 1 is not == 0 weights: model.layers.7.mlp.up_proj.weight"
    return passed(**{"status": Status.FAIL, "summary": summary, "criteria": criteria, "measurements": found} | changes)


def inconclusive(**changes: Any) -> Outcome:
    row = judge(
        "system_available", "System 'djinn' can run on this machine", None, "==", True, unit="",
        evidence="what it said when it was built", missing="system 'djinn' needs a CUDA device, and there is none",
    )  # fmt: skip
    values = {"status": Status.INCONCLUSIVE, "summary": row.reason, "criteria": (row,), "measurements": {}}
    return passed(**values | changes)


def crashed(**changes: Any) -> Outcome:
    failure = Failure(
        type="CopyError",
        message="copy of segment 12 failed: CUDA error 700",
        traceback='Traceback (most recent call last):\n  File "link.py", line 12, in copy\nCopyError: error 700\n',
    )
    values = {"status": Status.ERROR, "summary": "ring on smollm2: CopyError: copy failed", "criteria": ()}
    return passed(**values | {"failure": failure, "measurements": {}} | changes)


def every_status() -> list[Outcome]:
    return [passed(), failed(), inconclusive(), crashed()]


def executed_notebook(outcome: Outcome) -> Any:
    """Return a notebook as if `logits.ipynb` had been run to this outcome."""
    new = nbformat.v4
    shown = {"text/html": render_verdict(outcome), "text/plain": outcome.summary, OUTCOME_MIME: outcome.to_dict()}
    cells = [
        new.new_markdown_cell("# Logits\n\nDoes the system say what the resident model says?"),
        new.new_code_cell("show(outcome)", outputs=[new.new_output("display_data", shown)]),
        new.new_code_cell(IMPORTS),
    ]
    for plot in PLOTS:
        name = plot.__name__
        cells += [new.new_markdown_cell(f"## {name}"), html_cell(f"show_figure(*{name}(outcome))", STAND_IN)]
    for table in TABLES:
        cells.append(html_cell(f"{table.__name__}(outcome)", table(outcome)))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # nbformat's own are random
    return new.new_notebook(cells=cells)


def html_cell(source: str, fragment: str) -> Any:
    data = {"text/html": f'<div class="djinn-checks">{fragment}</div>'}
    return nbformat.v4.new_code_cell(source, outputs=[nbformat.v4.new_output("display_data", data)])


def _streaming(wrong: int = 0) -> tuple[Criterion, ...]:
    names = "model.layers.7.mlp.up_proj.weight"
    return (
        judge("weights_streamed", "At least the weights that the budget cannot hold were written in every pass",
              404_123_456, ">=", 403_545_024, unit="bytes", evidence=WITNESS + "; a lower bound"),
        judge("weights_within_budget", "The weights were used from no more memory than the budget", 133_936_576, "<=",
              134_515_008, unit="bytes", evidence=WITNESS),
        judge("weights_at_use", "Every weight had the reference's bytes when it was used", wrong, "==", 0,
              unit="weights", evidence=WITNESS, failed=names),
        skip("bytes_claimed_vs_planned", "The system moved what it planned", unit="forwards", reason="no plan"),
        skip("bytes_claimed_vs_witnessed", "The system claims what was written", unit="bytes", reason="no count"),
        skip("peak_device_memory", "Device memory stayed within budget", unit="bytes", reason="the device is a CPU"),
    )  # fmt: skip


def _equality(found: dict[str, Any]) -> tuple[Criterion, ...]:
    where = "first in pass 2, prompt 3, prefill position 17, layer model.layers.7"
    statistics = found["statistics"]
    return (
        *(judge(f"{phase}_bit_equal", f"Logits of the {phase} equal the resident model's bit for bit",
                measured["unequal_elements"], "==", 0, unit="elements", evidence=PASSES, floor=0, failed=where)
          for phase, measured in statistics.items()),
        *(judge(f"{phase}_l2_or_top_k", f"Every {phase} position has an L2 norm below 0.1 or the same top 5",
                measured["neither_l2_nor_top_k"], "==", 0, unit="positions", evidence=PASSES, floor=0)
          for phase, measured in statistics.items()),
        judge("finite_logits", "All logits are finite", 0, "==", 0, unit="elements", evidence=PASSES, floor=0),
    )  # fmt: skip


def _informative(kl: float) -> tuple[Criterion, ...]:
    return (
        judge("same_top_token", "Positions with the same likeliest token", 1.0 if kl == 0 else 0.98765, ">=", 1.0,
              unit="share", evidence=PASSES, required=False),
        judge("kl_divergence", "Largest KL(reference || system) at a position", kl, "<=", 0.0, unit="nats",
              evidence=PASSES + ", held against the reference run a second time", required=False),
    )  # fmt: skip


def measurements(differing: bool = False) -> dict[str, Any]:
    """Return measurements as the logits check writes them; made up, and the same every time."""
    random = np.random.default_rng(0)
    lengths = {"prefill": 900, "decode": 24}
    return {
        "prompts": [{"index": n, "tokens": 150, "text": "Hello"} for n in range(6)],
        "statistics": {phase: statistics(random, count, differing) for phase, count in lengths.items()},
        "floor": {phase: statistics(random, count, False) for phase, count in lengths.items()},
        "passes": [
            {"pass": n, "unequal_elements": 3456 * differing, "l2_position_max": 2.5 * differing, "forwards": 54,
             "claimed_bytes": 21_791_431_296, "predicted_bytes": 21_791_431_296 if n < 3 else None}
            for n in (1, 2, 3)
        ],
        "witness": {
            "weights": 272, "used_bytes": 538_060_032, "distinct_bytes": 133_936_576,
            "host_bytes": 0, "moved_bytes_lower_bound": 404_123_456, "budget_bytes": 134_515_008,
            "different": ["model.layers.7.mlp.up_proj.weight"] if differing else [],
            "bytes_of": {"model.layers.7.mlp.up_proj.weight": "model.layers.8.mlp.up_proj.weight"} if differing else {},
            "prefills": 6, "decode_steps": 6, "quiet": 3, "forwards": 162,
        },
        "localisation": None,
    }  # fmt: skip


def statistics(random: Any, positions: int, differing: bool) -> dict[str, Any]:
    edges = np.arange(-12, 4.5, 0.5)
    shape = np.exp(-(((edges[:-1] + 3) / 1.5) ** 2)) * differing
    elements = positions * 49152
    counts = [int(count) for count in shape * elements / 12]
    margins = 10.0 ** random.normal(-1, 0.6, positions)
    margin_edges = [0.0, *(10.0 ** (quarter / 4) for quarter in range(-16, 9))]
    kl = np.where(random.random(positions) < 0.3, 10.0 ** random.normal(-6, 1.5, positions), 0.0) * differing
    return {
        "positions": positions, "elements": elements, "unequal_elements": 2 * sum(counts), "nonfinite": 0,
        "l2_position_max": 2.5 * differing, "l2_whole_max": "Infinity" if differing else 0.0,
        "neither_l2_nor_top_k": 4 * differing, "top_k_identical_share": 0.9 if differing else 1.0,
        "same_top_token_share": 0.99995 if differing else 1.0,
        "kl": {"mean": float(kl.mean()), "max": float(kl.max()), "p50": 0.0, "p90": 0.0, "p99": 0.0, "p999": 0.0},
        "delta_p": dict.fromkeys(("mean", "rms", "min", "max", "p1", "p5", "p50", "p95", "p99"), 0.0),
        "perplexity_reference": 12.3456789, "perplexity_system": 12.3456789,
        "perplexity_ratio": "NaN" if differing else 1.0,
        "perplexity_ratio_error": 0.0, "ulp": {"max": 2**31 * differing, "p99": 12 * differing},
        "margin": {"min": float(margins.min()), "p1": 0.004, "p50": float(np.median(margins)), "edges": margin_edges,
                   "counts": np.histogram(margins, margin_edges)[0].tolist()},
        "difference_histogram": {"zero": elements - 2 * sum(counts), "log10_edges": edges.tolist(), "negative": counts,
                                 "positive": counts, "nan": 0},
        "kl_by_position": {"position": list(range(positions)), "mean": (kl / 6).tolist(), "max": kl.tolist()},
    }  # fmt: skip


def localisation() -> dict[str, Any]:
    random = np.random.default_rng(1)
    values = [[0.0 if row < 3 or layer < 8 else float(10 ** random.normal(-3 + layer / 20, 0.3)) for layer in range(32)]
              for row in range(6)]  # fmt: skip
    values[5][31] = "Infinity"  # type: ignore[call-overload]
    first = {"pass": 2, "prompt": 3, "phase": "prefill", "position": 17, "layer": "model.layers.7"}
    weights = ["model.layers.7.mlp.up_proj.weight"]
    return {"first": first, "layers": LAYERS, "relative_l2": values, "weights": weights, "reproduced": True}
