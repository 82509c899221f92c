"""The GPUs of this host by their UUIDs: which can be driven, which cannot and why, and who uses them.

The driver counts GPUs in another order than CUDA does, and CUDA_VISIBLE_DEVICES hides some; a UUID is the same for both
and in every outcome. All is asked of NVML: no CUDA context comes to be before it is known that a GPU is free.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from djinn_checks.errors import InstrumentError, ParamsError
from djinn_checks.instruments import nvml
from djinn_checks.instruments.device_tenants import find_family
from djinn_checks.instruments.topology import PciPath, read_path
from djinn_checks.units import GB, format_bytes

_MUCH_IN_USE_BYTES = 3 * GB
"""Device memory that nobody's list names. A driver keeps up to 1 GB for itself (an H200 at rest: 0.6)."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU as the driver and the kernel know it. None is unknown."""

    uuid: str
    name: str
    max_generation: int | None
    max_width: int | None
    """The most that GPU and slot can do together."""
    numa_node: int | None
    path: PciPath | None
    nvlinks: int | None
    """That are up."""
    left_out: str = ""
    """Why it cannot be driven; empty if it can."""
    in_use: str = ""
    """Who else uses it; empty if nobody does."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two GPUs, by their UUIDs."""

    one: str
    other: str
    meets_in: str | None
    """What they have in common on their way, in words."""
    can_peer: bool | None
    over_nvlink: bool | None


@dataclass(frozen=True, kw_only=True)
class HostGpus:
    """All GPUs that the driver lists, and how each two of them are connected."""

    gpus: tuple[Gpu, ...]
    pairs: tuple[Pair, ...]


def find_gpus(environment: dict[str, str] | None = None) -> HostGpus:
    """Return every GPU of this host; none where there is no driver.

    Args:
        environment: variables, for CUDA_VISIBLE_DEVICES; None: this process's.
    """
    variables = dict(os.environ) if environment is None else environment
    try:
        with nvml.open_nvml():
            handles = nvml.list_handles()
            hidden = find_hidden([nvml.read_uuid(handle) or "" for handle in handles], variables)
            gpus = tuple(_read_gpu(handle, why) for handle, why in zip(handles, hidden, strict=True))
            pairs = tuple(
                _read_pair(gpus[one].uuid, handles[one], gpus[other].uuid, handles[other])
                for one in range(len(handles))
                for other in range(len(handles))
                if one < other
            )
    except InstrumentError:
        return HostGpus(gpus=(), pairs=())
    return HostGpus(gpus=gpus, pairs=pairs)


def choose_gpus(found: HostGpus, asked: str | Sequence[str]) -> tuple[list[Gpu], dict[str, str]]:
    """Return the GPUs that are driven, and why each other one of the host is not, by its UUID.

    Args:
        asked: "all" of those that can be driven, "" for the first, or UUIDs.

    Raises:
        ParamsError: a GPU is named that is not there, twice, or that cannot be driven.
    """
    known = {gpu.uuid: gpu for gpu in found.gpus}
    wanted = list(known)[: None if asked == "all" else 1] if isinstance(asked, str) else list(asked)
    unknown = sorted(set(wanted) - known.keys())
    if unknown:
        there = ", ".join(known) or "none"
        raise ParamsError(f"gpus: expected UUIDs of this host's GPUs ({there}), got {', '.join(unknown)}")
    if len(set(wanted)) < len(wanted):
        raise ParamsError(f"gpus: expected each UUID once, got {', '.join(wanted)}")
    refused = [f"{uuid}: {known[uuid].left_out}" for uuid in wanted if known[uuid].left_out]
    if refused and asked != "all":
        raise ParamsError(f"gpus: {'; '.join(refused)}")
    driven = [known[uuid] for uuid in wanted if not known[uuid].left_out]
    uuids = {gpu.uuid for gpu in driven}
    return driven, {gpu.uuid: gpu.left_out or "it was not asked for" for gpu in found.gpus if gpu.uuid not in uuids}


def find_hidden(uuids: Sequence[str], variables: dict[str, str]) -> list[str]:
    """Return for each GPU, in the order of the PCI bus, why CUDA does not see it; empty where it does.

    CUDA reads the list up to the first entry that it does not know. Numbers count in the order that
    CUDA_DEVICE_ORDER names; the default puts faster GPUs first and equals in the order of the bus, so beside unequal
    GPUs a number may mean another one than here: name UUIDs.
    """
    if "CUDA_VISIBLE_DEVICES" not in variables:
        return ["" for _ in uuids]
    listed = variables["CUDA_VISIBLE_DEVICES"]
    seen: set[str] = set()
    for entry in (entry.strip() for entry in listed.split(",")):
        named = [uuid for uuid in uuids if entry.startswith("GPU-") and uuid.startswith(entry)]
        if entry.isdecimal() and int(entry) < len(uuids):
            named = [uuids[int(entry)]]
        if len(named) != 1:
            break
        seen |= set(named)
    return ["" if uuid in seen else f"CUDA_VISIBLE_DEVICES={listed} hides it" for uuid in uuids]


def _read_gpu(handle: Any, hidden: str) -> Gpu:
    link, address = nvml.read_link(handle), nvml.read_pci_name(handle)
    partitioned = "it is partitioned (MIG): its instances share one link, so none has one of its own"
    return Gpu(
        uuid=nvml.read_uuid(handle) or "unknown",
        name=nvml.read_device(handle)["name"] or "unknown",
        max_generation=link["max_generation"],
        max_width=link["max_width"],
        numa_node=nvml.read_numa_node(handle),
        path=read_path(address) if address else None,
        nvlinks=nvml.count_nvlinks(handle),
        left_out=partitioned if nvml.is_partitioned(handle) else hidden,
        in_use=_say_tenants(handle),
    )


def _say_tenants(handle: Any) -> str:
    """Return who uses a GPU beside this process and its children.

    In a container the driver may list none, or by the numbers of another namespace, this process among them: such a
    number tells nothing, and the memory in use decides.
    """
    listed = nvml.read_processes(handle) or []
    others = [pid for pid in sorted(set(listed) - find_family(os.getpid())) if Path(f"/proc/{pid}").exists()]
    memory = nvml.read_memory_bytes(handle)
    used = memory[1] - memory[0] if memory else 0
    if others:
        return f"process {', '.join(map(str, others))} computes on it ({format_bytes(used)} in use)"
    own = any(Path(f"/proc/{pid}").exists() for pid in listed)
    return "" if own or used < _MUCH_IN_USE_BYTES else f"{format_bytes(used)} of its memory are in use"


def _read_pair(one: str, handle: Any, other: str, its_handle: Any) -> Pair:
    return Pair(
        one=one,
        other=other,
        meets_in=nvml.read_common_ancestor(handle, its_handle),
        can_peer=nvml.can_peer(handle, its_handle, over_nvlink=False),
        over_nvlink=nvml.can_peer(handle, its_handle, over_nvlink=True),
    )
