"""Machine and software, as found: what a reader needs to judge or repeat an outcome.

Whatever cannot be read is None, never a guess. Host and user names, paths and secrets are left out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments import nvml

if TYPE_CHECKING:
    import torch

_PACKAGES = (
    "djinn-checks", "torch", "transformers", "accelerate", "safetensors", "numpy", "nvidia-ml-py", "papermill",
    "fastapi", "uvicorn", "httpx", "matplotlib", "nbconvert",
)  # fmt: skip
"""Those that a result or its page depends on; all that are installed stand in `installed`."""
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING",
    "CUDA_DEVICE_MAX_CONNECTIONS", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA",
    "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "MALLOC_ARENA_MAX",
)  # fmt: skip
"""Switches that change what is computed, or how fast. No variable that may hold a secret, a name or a path."""
_SYSTEMS = "djinn_checks.systems"
_NODES = Path("/sys/devices/system/node/online")


@cache
def _installed() -> tuple[str, ...]:
    """Return what is installed, sorted: hundreds of files to read, so once for a process, which imports no others."""
    read = [found.metadata for found in metadata.distributions()]  # read and parsed at each access
    return tuple(sorted({f"{found['Name']}=={found['Version']}" for found in read if found["Name"]}))


def read_environment(device: torch.device | None, *, system: str = "") -> dict[str, Any]:
    """Return plain, JSON-ready facts about this machine and its software. Sizes in bytes.

    Args:
        device: what the check runs on; GPU facts are those of this device, None on a CPU. None: nothing is computed,
            so PyTorch is not loaded for its number of threads.
        system: name of the checked system, as it is registered; of another one nothing is known.
    """
    return {
        "device": str(device or "cpu"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "installed": list(_installed()),
        "source": _own_source(),
        "system": _describe_system(system),
        "cpu": {
            "model": _cpu_model(),
            "cores": psutil.cpu_count(logical=False),
            "threads": psutil.cpu_count(),
            "allowed_threads": _allowed_threads(),
            "torch_threads": _torch_threads() if device else None,
            "numa_nodes_online": _read_line(_NODES),
        },
        "memory": {
            "ram_bytes": psutil.virtual_memory().total,
            "swap_bytes": psutil.swap_memory().total,
            "locked_memory_limit_bytes": _locked_memory_limit(),
        },
        "gpu": _gpu(device) if device and device.type == "cuda" else None,
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _describe_system(name: str) -> dict[str, Any] | None:
    """Return where a registered system comes from: its package, and the commit if that runs from a checkout."""
    if name.startswith("djinn-checks "):  # its own server
        return {"name": name, "package": "djinn-checks", "version": _version("djinn-checks"), "source": _own_source()}
    entry = next((point for point in metadata.entry_points(group=_SYSTEMS) if point.name == name), None)
    if entry is None or entry.dist is None:
        return None
    own = entry.dist.name != "djinn-checks" or _version(name) is None
    package = entry.dist if own else metadata.distribution(name)  # ours wraps a package of the system's own name
    return {
        "name": name,
        "package": package.name,
        "version": package.version,
        "source": _installed_commit(package) or _source_state(_find_file(entry.module if own else name)),
    }


def _own_source() -> dict[str, Any] | None:
    try:
        installed = _installed_commit(metadata.distribution("djinn-checks"))
    except metadata.PackageNotFoundError:
        installed = None
    return installed or _source_state(Path(__file__))


def _installed_commit(package: metadata.Distribution) -> dict[str, Any] | None:
    """Return the commit that pip installed a package from, if it came from a repository."""
    try:
        found = json.loads(package.read_text("direct_url.json") or "{}")
    except ValueError:
        return None
    commit = found.get("vcs_info", {}).get("commit_id")
    return None if commit is None else {"commit": commit, "dirty": False}


def _find_file(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None


def _source_state(file: Path | None) -> dict[str, Any] | None:
    """Return the git commit of a file's tree and whether it is changed; None if git does not know the file.

    A package that is installed into a folder of some other checkout is no part of it.
    """
    if file is None or _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    commit = _git(file.parent, "rev-parse", "HEAD")
    changes = _git(file.parent, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _allowed_threads() -> int | None:
    """Return how many of the machine's threads this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _read_line(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _locked_memory_limit() -> int | str | None:
    if sys.platform == "win32":
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return "unlimited" if soft == resource.RLIM_INFINITY else soft


def find_uuid(device: torch.device) -> str:
    """Return NVML's name of a CUDA device, as torch counts devices (CUDA_VISIBLE_DEVICES applied)."""
    import torch

    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _gpu(device: torch.device) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        **_driver_facts(device),
    }


def _driver_facts(device: torch.device) -> dict[str, Any]:
    """Return what only the driver knows; empty if it does not answer."""
    try:
        with nvml.open_nvml():
            handle = nvml.find_handle(find_uuid(device))
            return {
                "driver": nvml.read_device(handle)["driver"],
                "pcie": nvml.read_link(handle),
                "numa_node": nvml.read_numa_node(handle),
            }
    except InstrumentError:
        return {}
