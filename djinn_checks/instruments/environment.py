"""Machine and software, as found: what a reader needs to judge or repeat an outcome.

Whatever cannot be read is None, never a guess. Host and user names, paths and secrets are left out.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments import nvml

_PACKAGES = ("djinn-checks", "torch", "transformers", "accelerate", "safetensors", "numpy", "nvidia-ml-py", "papermill")
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING",
    "CUBLAS_WORKSPACE_CONFIG",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
)


def read_environment(device: torch.device) -> dict[str, Any]:
    """Return plain, JSON-ready facts about this machine and its software. Sizes in bytes.

    Args:
        device: what the check runs on; GPU facts are those of this device, None on a CPU.
    """
    return {
        "device": str(device),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "source": _source_state(),
        "cpu": {
            "model": _cpu_model(),
            "cores": psutil.cpu_count(logical=False),
            "threads": psutil.cpu_count(),
            "torch_threads": torch.get_num_threads(),
        },
        "memory": {
            "ram_bytes": psutil.virtual_memory().total,
            "swap_bytes": psutil.swap_memory().total,
            "locked_memory_limit_bytes": _locked_memory_limit(),
        },
        "gpu": _gpu(device) if device.type == "cuda" else None,
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _source_state() -> dict[str, Any] | None:
    """Return the git commit of this package and whether its tree is changed, if it runs from a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
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
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _gpu(device: torch.device) -> dict[str, Any]:
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
