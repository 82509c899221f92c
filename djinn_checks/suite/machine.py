"""Whether an outcome was made on the machine that this process runs on, as far as both say. Needs no torch.

An outcome holds no name of a host. What it says of kernel, processor and GPU is read here as an instrument reads it
there; what either does not say decides nothing. It is a file's own word: this finds a folder that was copied, and no
forger.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")
_GPUS = Path("/proc/driver/nvidia/gpus")


def find_other_machine(environment: Mapping[str, Any]) -> str:
    """Return by what an outcome's machine is another one than this, in a clause; empty if nothing says so.

    Args:
        environment: of an outcome that was read, so of its shape.
    """
    cpu, gpu = environment.get("cpu") or {}, environment.get("gpu") or {}
    here = (("platform", environment.get("platform"), [platform.platform()]),
            ("processor", cpu.get("model"), _read_values(_CPUINFO, "model name")),
            ("GPU", gpu.get("name"), _read_gpus()))  # fmt: skip
    for what, there, known in here:
        if there and known and there not in known:
            return f"its {what} is {there}, and here it is {' or '.join(known)}"
    return ""


def find_other_gpu(environment: Mapping[str, Any], variables: Mapping[str, str]) -> str:
    """Return by what an outcome is of other GPUs than those that this run was given by UUID; empty if it is not.

    A run on the CPU is of none. One that does not say which GPU it had is of another: this one was asked for by name.

    Args:
        environment: of an outcome that was read.
        variables: of this process.
    """
    here = variables.get("CUDA_VISIBLE_DEVICES", "")
    if not here.startswith("GPU-") or not str(environment.get("device", "")).startswith("cuda"):
        return ""
    there = (environment.get("variables") or {}).get("CUDA_VISIBLE_DEVICES")
    return "" if there == here else f"it ran on {there or 'a GPU that it does not name'}, and {here} was asked for"


def _read_gpus() -> list[str]:
    """Return the models that NVIDIA's driver lists; none where it lists nothing."""
    files = sorted(_GPUS.glob("*/information")) if _GPUS.is_dir() else []
    return list(dict.fromkeys(name for file in files for name in _read_values(file, "Model")))


def _read_values(file: Path, name: str) -> list[str]:
    return list(dict.fromkeys(_find_values(file, name)))


def _find_values(file: Path, name: str) -> Iterator[str]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        known, _, value = line.partition(":")
        if known.strip() == name and value.strip():
            yield value.strip()
