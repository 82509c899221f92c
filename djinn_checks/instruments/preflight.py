"""What a machine needs for the PCIe check, looked at before anything runs, with a remedy for what is missing.

Rows are facts from the driver and the kernel; what is measured is in `preflight_all.py`. A row that cannot be read is
unknown (`ok` is None), which is neither good nor bad.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments import nvml
from djinn_checks.units import GIB, format_bytes


@dataclass(frozen=True, kw_only=True)
class PreflightRow:
    """One thing that the check needs."""

    name: str
    found: str
    wanted: str
    ok: bool | None
    """None is unknown."""
    remedy: str = ""
    """What to do; empty if nothing has to be done."""


def look_around(
    uuid: str | None = None, *, device_bytes: int | None = None, pinned_bytes: int | None = None
) -> list[PreflightRow]:
    """Return the preflight table of this machine.

    Args:
        uuid: NVML's name of the GPU (`environment.find_uuid`); None is the first.
        device_bytes: device memory that resident weights and ring will take, if it is known.
        pinned_bytes: host memory that the run will pin, if it is known.
    """
    return [*look_at_gpu(uuid, device_bytes), *look_at_host(pinned_bytes)]


def look_at_gpu(uuid: str | None = None, device_bytes: int | None = None) -> list[PreflightRow]:
    """Return the rows about one GPU."""
    return [row if not row.ok else _without_remedy(row) for row in _gpu_rows(uuid, device_bytes)]


def look_at_host(pinned_bytes: int | None = None) -> list[PreflightRow]:
    """Return the rows about the host's memory."""
    rows = [_locked_memory(pinned_bytes), _free_memory(pinned_bytes), _swap()]
    return [row if not row.ok else _without_remedy(row) for row in rows]


def _without_remedy(row: PreflightRow) -> PreflightRow:
    return PreflightRow(name=row.name, found=row.found, wanted=row.wanted, ok=row.ok)


def _gpu_rows(uuid: str | None, device_bytes: int | None) -> list[PreflightRow]:
    try:
        with nvml.open_nvml():
            handle = nvml.find_handle(uuid)
            device, link = nvml.read_device(handle), nvml.read_link(handle)
            numa, memory = nvml.read_numa_node(handle), nvml.read_memory_bytes(handle)
            source = _counter_source(handle)
    except InstrumentError as error:
        return [
            PreflightRow(
                name="GPU",
                found=str(error),
                wanted="an NVIDIA GPU with its driver",
                ok=False,
                remedy="without one the check runs over a host-memory link and decides nothing about PCIe",
            )
        ]
    return [
        PreflightRow(name="GPU", found=f"{device['name']}, driver {device['driver']}", wanted="any", ok=True),
        _ring_row(memory, device_bytes),
        _link_row(link),
        _counter_row(source),
        _numa_row(numa),
    ]


def _ring_row(memory: tuple[int, int] | None, device_bytes: int | None) -> PreflightRow:
    return PreflightRow(
        name="Device memory for resident weights and ring",
        found="unknown" if memory is None else f"{format_bytes(memory[0])} free of {format_bytes(memory[1])}",
        wanted="the budget" if device_bytes is None else f"{format_bytes(device_bytes)}, the budget",
        ok=None if memory is None or device_bytes is None else memory[0] >= device_bytes,
        remedy="give a smaller budget, or end what else uses the GPU",
    )


def _link_row(link: dict[str, int | None]) -> PreflightRow:
    """The generation of an idle link may be lower than under load; its width may not."""
    now, most = (f"gen {link[g]} x{link[w]}" for g, w in (("generation", "width"), ("max_generation", "max_width")))
    known = None not in link.values()
    return PreflightRow(
        name="PCIe link",
        found=f"{now} (an idle link may run at a lower generation)" if known else "unknown",
        wanted=f"{most}, the most that GPU and slot can do together",
        ok=link["width"] == link["max_width"] if known else None,
        remedy="the link has fewer lanes than it could: reseat the card, try another slot, see the slot's bifurcation",
    )


def _counter_source(handle: Any) -> str | None:
    try:
        nvml.read_field_counters(handle)
    except InstrumentError as error:
        return str(error)
    return None


def _counter_row(problem: str | None) -> PreflightRow:
    return PreflightRow(
        name="PCIe byte counters",
        found=problem or "NVML field counters",
        wanted="NVML fields PCIE_COUNT_RX_BYTES and PCIE_COUNT_TX_BYTES",
        ok=problem is None,
        remedy="coarser sources are tried (GPM, then throughput); windows must then be longer. Virtual GPUs and old "
        "drivers have no counters: run on the host, or update the driver",
    )


def _numa_row(numa: int | None) -> PreflightRow:
    nodes = len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or 1
    near = nodes == 1 or (numa is not None and _cpus_of(numa) >= set(psutil.Process().cpu_affinity() or ()))
    return PreflightRow(
        name="NUMA node of the GPU",
        found=f"{'unknown' if numa is None else numa} of {nodes}",
        wanted="the node that this process runs on",
        ok=near if nodes == 1 or numa is not None else None,
        remedy=f"start under `numactl --cpunodebind={numa} --membind={numa}`: memory of another node is slower",
    )


def _cpus_of(node: int) -> set[int]:
    try:
        text = Path(f"/sys/devices/system/node/node{node}/cpulist").read_text().strip()
    except OSError:
        return set()
    cpus: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def _locked_memory(pinned_bytes: int | None) -> PreflightRow:
    """CUDA pins through its driver, which most kernels exempt from the limit; not all containers do."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = soft == resource.RLIM_INFINITY
    return PreflightRow(
        name="Locked memory (ulimit -l)",
        found="unlimited" if unlimited else format_bytes(soft),
        wanted="unlimited" if pinned_bytes is None else f"at least {format_bytes(pinned_bytes)}",
        ok=unlimited or (pinned_bytes is not None and soft >= pinned_bytes) or None,
        remedy="if pinning fails, raise it: `ulimit -l unlimited`, or `--ulimit memlock=-1` for a container",
    )


def _free_memory(pinned_bytes: int | None) -> PreflightRow:
    free = psutil.virtual_memory().available
    return PreflightRow(
        name="Free host memory",
        found=format_bytes(free),
        wanted="what the model's streamed weights need" if pinned_bytes is None else format_bytes(pinned_bytes),
        ok=None if pinned_bytes is None else free >= pinned_bytes,
        remedy="choose a smaller model or a larger device budget",
    )


def _swap() -> PreflightRow:
    used = psutil.swap_memory().used
    return PreflightRow(
        name="Swap in use",
        found=format_bytes(used),
        wanted="next to none",
        ok=used < GIB,
        remedy="the machine is short of memory: pages that come back from disk make a link look slow",
    )
