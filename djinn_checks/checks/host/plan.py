"""Which links a run drives, and how: GPUs that are found, or links within host memory that stand in for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from djinn_checks.instruments.gpus import Gpu, HostGpus, Pair, choose_gpus
from djinn_checks.instruments.many_counters import name_board
from djinn_checks.instruments.topology import PciPath, list_nodes
from djinn_checks.params import HostParams
from djinn_checks.units import MB, MIB

PCIE, HOST_MEMORY, REPLAY = "pcie", "host memory", "replay"

STAND_IN_BYTES_PER_S = 64 * MB
"""Slow beside any memory, so that many of them on few processors keep their pace."""


@dataclass(frozen=True, kw_only=True)
class LinkPlan:
    """One link: what it is, what drives it and what counts it."""

    uuid: str
    name: str
    subject: str
    """PCIE or HOST_MEMORY."""
    source: str
    """Of its counters, as `many_counters` takes it."""
    opener: str
    """module:function that gives the driver of the link to its process."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """For the opener; plain data."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of its process's environment."""
    max_generation: int | None = None
    max_width: int | None = None
    numa_node: int | None = None
    path: PciPath | None = None
    nvlinks: int | None = None


@dataclass(frozen=True, kw_only=True)
class HostPlan:
    """All links of a run, and what of the host is not among them."""

    subject: str
    links: tuple[LinkPlan, ...]
    nodes: tuple[int, ...]
    """NUMA nodes with memory."""
    pairs: tuple[Pair, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why a GPU of the host is not driven, by its UUID."""
    in_use: Mapping[str, str] = field(default_factory=dict)
    """Who else uses a GPU that was to be driven, by its UUID."""

    @property
    def uuids(self) -> tuple[str, ...]:
        return tuple(link.uuid for link in self.links)


def plan_gpus(params: HostParams, found: HostGpus) -> HostPlan:
    """Return the plan for the GPUs of this host, all or those that the parameters name.

    Raises:
        ParamsError: a GPU is named that is not there, or that cannot be driven.
    """
    driven, left_out = choose_gpus(found, params.gpus)
    uuids = {gpu.uuid for gpu in driven}
    nodes = tuple(list_nodes())
    return HostPlan(
        subject=PCIE,
        links=tuple(_plan_gpu(gpu, nodes, params) for gpu in driven),
        nodes=nodes,
        pairs=tuple(pair for pair in found.pairs if {pair.one, pair.other} <= uuids),
        left_out=left_out,
        in_use={gpu.uuid: gpu.in_use for gpu in driven if gpu.in_use},
    )


def _plan_gpu(gpu: Gpu, nodes: Sequence[int], params: HostParams) -> LinkPlan:
    near = gpu.numa_node if gpu.numa_node in nodes else None
    far = next((node for node in reversed(nodes) if node != near), None) if near is not None else None
    return LinkPlan(
        uuid=gpu.uuid,
        name=gpu.name,
        subject=PCIE,
        source=gpu.uuid,
        opener="djinn_checks.checks.host.cuda_link:open_link",
        options={"near": near, "far": far, "nbytes": params.copy_mib * MIB},
        variables={"CUDA_VISIBLE_DEVICES": gpu.uuid, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
        max_generation=gpu.max_generation,
        max_width=gpu.max_width,
        numa_node=gpu.numa_node,
        path=gpu.path,
        nvlinks=gpu.nvlinks,
    )


def plan_stand_ins(params: HostParams, folder: Path) -> HostPlan:
    """Return the plan for as many links within host memory as the parameters say; their boards lie in `folder`."""
    return HostPlan(
        subject=HOST_MEMORY,
        links=tuple(_plan_stand_in(number, folder) for number in range(params.stand_ins)),
        nodes=(0,),
    )


def _plan_stand_in(number: int, folder: Path) -> LinkPlan:
    board = folder / f"board-{number}"
    return LinkPlan(
        uuid=f"stand-in-{number}",
        name="link within host memory",
        subject=HOST_MEMORY,
        source=name_board(board),
        opener="djinn_checks.checks.host.stand_in:open_link",
        options={"board": str(board), "bytes_per_s": STAND_IN_BYTES_PER_S},
        max_generation=5,
        max_width=16,
    )
