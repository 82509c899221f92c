"""The preflight of a whole host: every GPU by its UUID, and how fast each copies from pinned memory.

The bandwidth is measured by a few copies of 256 MiB on each GPU, one after the other: less than a second each, beside
PyTorch's start. A GPU that somebody else uses, or that is hidden or partitioned, is not touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from djinn_checks.instruments.gpus import Gpu, HostGpus, find_gpus
from djinn_checks.instruments.preflight import PreflightRow, look_at_gpu, look_at_host
from djinn_checks.units import GB, MIB

LEAST_PINNED_BYTES_PER_S = 22 * GB
"""What the system that this package was written for asks of a machine: more than 22 GB/s from pinned memory."""
_COPY_BYTES, _SAMPLES = 256 * MIB, 4
_NAME = "Pinned bandwidth, host to device"
_WANTED = "more than 22 GB/s from pinned memory, on each GPU"
_REMEDY = "see the PCIe link above, and what else uses it; start near the GPU's NUMA node"

Measure = Callable[[str], float]
"""From the UUID of a GPU to the bytes/s that it copies from pinned memory."""


def look_at_all(*, found: HostGpus | None = None, measure: Measure | None = None) -> list[PreflightRow]:
    """Return the preflight table of this host.

    Args:
        found: its GPUs; None: asks the driver.
        measure: measures one; None: by copies.
    """
    gpus = (find_gpus() if found is None else found).gpus
    if not gpus:
        not_measured = PreflightRow(
            name=_NAME,
            found="not measured: there is no GPU; a few copies of 256 MiB would go to each",
            wanted=_WANTED,
            ok=None,
        )
        return [*look_at_gpu(), not_measured, *look_at_host()]
    rows = [row for gpu in gpus for row in _look_at_one(gpu, measure or _measure, named=len(gpus) > 1)]
    return [*rows, *look_at_host()]


def _look_at_one(gpu: Gpu, measure: Measure, *, named: bool) -> list[PreflightRow]:
    rows = [*look_at_gpu(gpu.uuid), _bandwidth_row(gpu, measure)]
    return [replace(row, name=f"{gpu.uuid}: {row.name}") for row in rows] if named else rows


def _bandwidth_row(gpu: Gpu, measure: Measure) -> PreflightRow:
    why_not = gpu.left_out or gpu.in_use
    if why_not:
        return PreflightRow(name=_NAME, found=f"not measured: {why_not}", wanted=_WANTED, ok=None)
    try:
        rate = measure(gpu.uuid)
    except Exception as error:  # whatever CUDA says, it is a row of the table
        return PreflightRow(
            name=_NAME, found=f"{type(error).__name__}: {error}", wanted=_WANTED, ok=False, remedy="see the error"
        )
    is_enough = rate > LEAST_PINNED_BYTES_PER_S
    return PreflightRow(
        name=_NAME, found=f"{rate / GB:.1f} GB/s", wanted=_WANTED, ok=is_enough, remedy="" if is_enough else _REMEDY
    )


def _measure(uuid: str) -> float:
    import torch  # slow to import, and not needed where there is nothing to measure

    from djinn_checks.instruments.environment import find_uuid
    from djinn_checks.instruments.link_ceiling import measure_ceiling

    devices = (torch.device("cuda", number) for number in range(torch.cuda.device_count()))
    device = next((device for device in devices if find_uuid(device) == uuid), None)
    if device is None:
        raise RuntimeError("PyTorch does not see this GPU")
    torch.cuda.set_device(device)
    return measure_ceiling(device, nbytes=_COPY_BYTES, samples=_SAMPLES).bytes_per_s
