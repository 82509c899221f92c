"""NVIDIA's management library: counters and facts of a GPU, read from outside any CUDA context.

The only file that imports pynvml. Importing it needs no driver; every call does, and raises
InstrumentError with NVML's own reason where there is none. What a GPU does not support is None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pynvml

from djinn_checks.errors import InstrumentError
from djinn_checks.units import KB, MIB


def initialize() -> None:
    """Initialize NVML for the rest of the process.

    Raises:
        InstrumentError: there is no NVIDIA driver here.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise InstrumentError(f"NVML: no NVIDIA driver answers ({error})") from error


@contextmanager
def open_nvml() -> Iterator[None]:
    """Initialize NVML and shut it down again.

    Raises:
        InstrumentError: there is no NVIDIA driver here.
    """
    initialize()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def find_handle(uuid: str | None) -> Any:
    """Return the NVML handle of a GPU; of the first one if no UUID is given. NVML must be open.

    Raises:
        InstrumentError: NVML has no such GPU.
    """
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(uuid) if uuid else pynvml.nvmlDeviceGetHandleByIndex(0)
    except pynvml.NVMLError as error:
        raise InstrumentError(f"NVML: GPU {uuid or 0} is not there ({error})") from error


def read_field_counters(handle: Any) -> tuple[int, int]:
    """Return the PCIe counters (received, sent) in wire bytes, modulo 2^32, in one query of about 0.3 ms.

    Received is host to device.

    Raises:
        InstrumentError: this GPU or driver has no such counters.
    """
    fields = [pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES, pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES]
    try:
        received, sent = pynvml.nvmlDeviceGetFieldValues(handle, fields)
    except pynvml.NVMLError as error:
        raise InstrumentError(f"NVML: PCIe byte counters cannot be read ({error})") from error
    for value in (received, sent):
        if value.nvmlReturn != pynvml.NVML_SUCCESS:
            reason = pynvml.NVMLError(value.nvmlReturn)
            raise InstrumentError(f"NVML: PCIe byte counters are not supported by this GPU ({reason})")
    return _integer(received), _integer(sent)


_INTEGER_MEMBERS = {
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
}
"""Where a field's value lies, by its type."""


def _integer(field: Any) -> int:
    """Return a field's value by its type: reading another member of the union gives bytes of its neighbours."""
    if field.valueType not in _INTEGER_MEMBERS:
        raise InstrumentError(f"NVML: PCIe counter has value type {field.valueType}, expected an unsigned integer")
    return int(getattr(field.value, _INTEGER_MEMBERS[field.valueType])) % 2**32


class GpmRates:
    """PCIe rates of NVIDIA's GPU performance monitoring: means between two looks, MiB/s of wire bytes."""

    def __init__(self, handle: Any) -> None:
        """Take the first look.

        Raises:
            InstrumentError: this GPU has no performance monitoring.
        """
        self._handle = handle
        try:
            if not pynvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
                raise InstrumentError("NVML: this GPU has no performance monitoring (GPM)")
            self._last, self._next = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
            pynvml.nvmlGpmSampleGet(handle, self._last)
        except (pynvml.NVMLError, AttributeError) as error:
            raise InstrumentError(f"NVML: GPM cannot be read ({error})") from error

    def read(self) -> tuple[float, float]:
        """Return (received, sent) in bytes per second since the last look.

        Raises:
            InstrumentError: NVML does not answer any more.
        """
        query = pynvml.c_nvmlGpmMetricsGet_t()
        query.version, query.numMetrics = pynvml.NVML_GPM_METRICS_GET_VERSION, 2
        query.sample1, query.sample2 = self._last, self._next
        query.metrics[0].metricId = pynvml.NVML_GPM_METRIC_PCIE_RX_PER_SEC
        query.metrics[1].metricId = pynvml.NVML_GPM_METRIC_PCIE_TX_PER_SEC
        try:
            pynvml.nvmlGpmSampleGet(self._handle, self._next)
            pynvml.nvmlGpmMetricsGet(query)
        except pynvml.NVMLError as error:
            raise InstrumentError(f"NVML: GPM cannot be read ({error})") from error
        self._last, self._next = self._next, self._last
        return query.metrics[0].value * MIB, query.metrics[1].value * MIB


def read_throughput(handle: Any) -> tuple[float, float]:
    """Return (received, sent) in wire bytes per second, each a mean over the 20 ms that its query blocks.

    Raises:
        InstrumentError: this GPU or driver does not say.
    """
    try:
        kinds = (pynvml.NVML_PCIE_UTIL_RX_BYTES, pynvml.NVML_PCIE_UTIL_TX_BYTES)
        received, sent = (pynvml.nvmlDeviceGetPcieThroughput(handle, kind) * KB for kind in kinds)
    except pynvml.NVMLError as error:
        raise InstrumentError(f"NVML: PCIe throughput is not supported by this GPU ({error})") from error
    return float(received), float(sent)


def read_link(handle: Any) -> dict[str, int | None]:
    """Return generation and width of the PCIe link, current and maximum, None where NVML does not say.

    An idle link may run at a lower generation than under load.
    """
    return {
        "generation": _ask(pynvml.nvmlDeviceGetCurrPcieLinkGeneration, handle),
        "width": _ask(pynvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
        "max_generation": _ask(pynvml.nvmlDeviceGetMaxPcieLinkGeneration, handle),
        "max_width": _ask(pynvml.nvmlDeviceGetMaxPcieLinkWidth, handle),
    }


HEALTH_FIELDS = {
    "replays": pynvml.NVML_FI_DEV_PCIE_REPLAY_COUNTER,
    "replay_rollovers": pynvml.NVML_FI_DEV_PCIE_REPLAY_ROLLOVER_COUNTER,
    "l0_to_recovery": pynvml.NVML_FI_DEV_PCIE_L0_TO_RECOVERY_COUNTER,
    "correctable_errors": pynvml.NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS,
    "naks_received": pynvml.NVML_FI_DEV_PCIE_COUNT_NAKS_RECEIVED,
    "receiver_errors": pynvml.NVML_FI_DEV_PCIE_COUNT_RECEIVER_ERROR,
    "bad_tlps": pynvml.NVML_FI_DEV_PCIE_COUNT_BAD_TLP,
    "naks_sent": pynvml.NVML_FI_DEV_PCIE_COUNT_NAKS_SENT,
    "bad_dllps": pynvml.NVML_FI_DEV_PCIE_COUNT_BAD_DLLP,
    "non_fatal_errors": pynvml.NVML_FI_DEV_PCIE_COUNT_NON_FATAL_ERROR,
    "fatal_errors": pynvml.NVML_FI_DEV_PCIE_COUNT_FATAL_ERROR,
    "unsupported_requests": pynvml.NVML_FI_DEV_PCIE_COUNT_UNSUPPORTED_REQ,
    "lcrc_errors": pynvml.NVML_FI_DEV_PCIE_COUNT_LCRC_ERROR,
    "lane_errors": pynvml.NVML_FI_DEV_PCIE_COUNT_LANE_ERROR,
}
"""NVML's counters of a link's health by our names. They count since the driver was loaded: only differences mean
something."""


def list_health_queries(handle: Any) -> list[Callable[[], dict[str, int | None]]]:
    """Return the queries that read a link's health, each for one figure.

    Where kernels read host memory in place, a query for all fourteen counters together kept the byte counters waiting
    for 68 ms (H200), within which they may wrap.

    Together they give every counter of `HEALTH_FIELDS`, and generation, width and clock_reasons; None where NVML does
    not say. `clock_reasons` are NVML's bits of why the clocks are not at their highest.
    """
    single = {
        "generation": pynvml.nvmlDeviceGetCurrPcieLinkGeneration,
        "width": pynvml.nvmlDeviceGetCurrPcieLinkWidth,
        "clock_reasons": pynvml.nvmlDeviceGetCurrentClocksEventReasons,
    }
    queries = [partial(_read_one, name, query, handle) for name, query in single.items()]
    counters = [partial(_read_health_counter, name, field, handle) for name, field in HEALTH_FIELDS.items()]
    return [*counters, *queries]


def _read_one(name: str, query: Callable[[Any], int], handle: Any) -> dict[str, int | None]:
    return {name: _ask(query, handle)}


def _read_health_counter(name: str, field: int, handle: Any) -> dict[str, int | None]:
    values = _ask(lambda device: pynvml.nvmlDeviceGetFieldValues(device, [field]), handle) or ()
    known = [value for value in values if value.nvmlReturn == pynvml.NVML_SUCCESS]
    return {name: _integer(known[0]) if known and known[0].valueType in _INTEGER_MEMBERS else None}


def read_numa_node(handle: Any) -> int | None:
    """Return the NUMA node that a GPU hangs on, from the kernel's PCI tree; None if it does not say."""
    name = read_pci_name(handle)
    if name is None:
        return None
    try:
        node = int(Path(f"/sys/bus/pci/devices/{name}/numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def list_handles() -> list[Any]:
    """Return the NVML handle of every GPU that the driver knows, in the order of the PCI bus. NVML must be open.

    Raises:
        InstrumentError: NVML does not say how many there are.
    """
    try:
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        raise InstrumentError(f"NVML: the GPUs cannot be listed ({error})") from error


def read_uuid(handle: Any) -> str | None:
    """Return NVML's name of a GPU, GPU-..., whatever the order that others count in."""
    found = _ask(pynvml.nvmlDeviceGetUUID, handle)
    return found.decode() if isinstance(found, bytes) else found


def read_pci_name(handle: Any) -> str | None:
    """Return the address of a GPU on the PCI bus as the kernel writes it, 0000:18:00.0; None if NVML does not say."""
    info = _ask(pynvml.nvmlDeviceGetPciInfo, handle)
    if info is None:
        return None
    bus = info.busId.decode() if isinstance(info.busId, bytes) else str(info.busId)
    return bus.lower()[-12:]  # NVML writes the domain with eight digits, the kernel with four


def is_partitioned(handle: Any) -> bool | None:
    """Tell whether a GPU is partitioned (MIG): its instances share one link. None if NVML does not say."""
    found = _ask(pynvml.nvmlDeviceGetMigMode, handle)
    return None if found is None else bool(found[0])


def read_processes(handle: Any) -> list[int] | None:
    """Return the numbers of the processes that compute on a GPU, as the driver counts them; None if it does not say."""
    found = _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
    return None if found is None else [int(process.pid) for process in found]


_ANCESTORS = {
    pynvml.NVML_TOPOLOGY_INTERNAL: "one board",
    pynvml.NVML_TOPOLOGY_SINGLE: "one PCIe switch",
    pynvml.NVML_TOPOLOGY_MULTIPLE: "several PCIe switches, no host bridge",
    pynvml.NVML_TOPOLOGY_HOSTBRIDGE: "one host bridge",
    pynvml.NVML_TOPOLOGY_NODE: "one NUMA node",
    pynvml.NVML_TOPOLOGY_SYSTEM: "different NUMA nodes",
}


def read_common_ancestor(one: Any, other: Any) -> str | None:
    """Return what two GPUs meet in, in words; None if NVML does not say."""
    found = _ask(lambda handle: pynvml.nvmlDeviceGetTopologyCommonAncestor(handle, other), one)
    return _ANCESTORS.get(found)


def can_peer(one: Any, other: Any, *, over_nvlink: bool) -> bool | None:
    """Tell whether a GPU can write another's memory, over NVLink or at all; None if NVML does not say."""
    what = pynvml.NVML_P2P_CAPS_INDEX_NVLINK if over_nvlink else pynvml.NVML_P2P_CAPS_INDEX_WRITE
    found = _ask(lambda handle: pynvml.nvmlDeviceGetP2PStatus(handle, other, what), one)
    return None if found is None else bool(found == pynvml.NVML_P2P_STATUS_OK)


def count_nvlinks(handle: Any) -> int | None:
    """Return how many NVLinks of a GPU are up; None if NVML tells of none at all."""
    states = [_ask(partial(_read_nvlink, link), handle) for link in range(pynvml.NVML_NVLINK_MAX_LINKS)]
    known = [state for state in states if state is not None]
    return sum(int(state) for state in known) if known else None


def _read_nvlink(link: int, handle: Any) -> int:
    return int(pynvml.nvmlDeviceGetNvLinkState(handle, link))


def read_memory_bytes(handle: Any) -> tuple[int, int] | None:
    """Return (free, total) device memory in bytes, whoever uses it; None if NVML does not say."""
    found = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    return None if found is None else (int(found.free), int(found.total))


def read_device(handle: Any) -> dict[str, Any]:
    """Return name and driver version of a GPU."""
    return {"name": _ask(pynvml.nvmlDeviceGetName, handle), "driver": _ask(lambda _: _driver(), handle)}


def _driver() -> str:
    return str(pynvml.nvmlSystemGetDriverVersion())


def read_process_memory(handle: Any) -> dict[int, int]:
    """Return the device memory of each process that NVML lists, in bytes by its number."""
    processes = _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    return {int(found.pid): int(found.usedGpuMemory) for found in processes if found.usedGpuMemory is not None}


def process_memory_bytes(handle: Any, pid: int) -> int | None:
    """Return the device memory of a process in bytes, context included; None if NVML does not list it."""
    processes = _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    return next((process.usedGpuMemory for process in processes if process.pid == pid), None)


def _ask(question: Callable[[Any], Any], handle: Any) -> Any:
    try:
        return question(handle)
    except pynvml.NVMLError:
        return None
