"""What the reference engine would do with a model and a budget, in words. No weights are read."""

from __future__ import annotations

import argparse
from typing import Any

from djinn_checks.devices import DEVICE_NAMES, DTYPE_NAMES, choose_device, choose_dtype
from djinn_checks.errors import ParamsError
from djinn_checks.units import GB, format_bytes
from djinn_checks.visible import make_visible


def add_plan_command(commands: Any) -> None:
    """Add `plan` to the commands of a parser."""
    plan = commands.add_parser("plan", help="say what of a model would stay on the device, what stream, and from where")
    plan.add_argument("model", help="smollm2, random:<shape>, a folder, or a hub id")
    plan.add_argument("--budget-gb", type=float, metavar="GB", help="device memory for weights (half of the model)")
    plan.add_argument("--dtype", help=f"{', '.join(DTYPE_NAMES)} (float16; on a CPU float32)")
    plan.add_argument("--device", default="auto", help=DEVICE_NAMES)
    plan.set_defaults(command=_print_plan)


def _print_plan(options: argparse.Namespace) -> int:
    for line in describe_plan(options.model, options.budget_gb, dtype=options.dtype, device=options.device):
        print(make_visible(line))
    return 0


def describe_plan(spec: str, budget_gb: float | None, *, dtype: str | None, device: str) -> list[str]:
    """Return the plan of the system `ring`, line by line.

    Args:
        spec: as `open_model` takes it.
        budget_gb: device memory for weights in GB; None: half of the model.
        dtype, device: as in params.

    Raises:
        ParamsError: the budget, the data type or the device cannot be.
        CapacityError: the budget is too small.
        ModelError: the model cannot be had.
    """
    from djinn_checks.models.open import open_model  # torch takes seconds to import
    from djinn_checks.systems.ring import RingSystem

    if budget_gb is not None and not 0 < budget_gb < 1e6:
        raise ParamsError(f"--budget-gb: expected more than 0, got {budget_gb:g}")
    where = choose_device(device)
    model = open_model(spec, dtype=choose_dtype(dtype, where), device=where)
    budget = int(budget_gb * GB) if budget_gb is not None else model.weight_bytes // 2
    system = RingSystem(model, device=where, budget_bytes=budget)
    plan, kind = system.plan, str(model.dtype).removeprefix("torch.")
    lines = [
        f"{spec} ({kind}): {format_bytes(model.weight_bytes)} of weights, {format_bytes(budget)} for them on {where}",
        f"stay on the device: {len(plan.resident)} segments of {format_bytes(plan.resident_bytes)}; the ring has "
        f"{format_bytes(plan.ring_bytes)}",
        f"stream in every forward: {len(plan.loads)} segments of {format_bytes(plan.bytes_per_pass)}",
        *(f"  {format_bytes(source.nbytes)} {source.where}: {source.why}" for source in system.sources()),
    ]
    if system.rehearses:
        lines.append("this is the plan before the rehearsal, by which the system may plan otherwise when it opens")
    return lines
