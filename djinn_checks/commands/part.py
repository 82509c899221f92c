"""`--shard` and `--gpu` of `djinn-checks run`: a part of a suite, and the GPUs of this host that it runs on."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from djinn_checks.errors import ParamsError

if TYPE_CHECKING:
    from djinn_checks.instruments.gpus import HostGpus

_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")


def add_part_options(run: argparse.ArgumentParser) -> None:
    """Add the options to the parser of `run`."""
    part = run.add_argument_group("a part of the suite, on a part of the host")
    part.add_argument(
        "--shard",
        metavar="I/N",
        help="run part I of N, the same jobs on every machine; `merge` puts the parts together",
    )
    part.add_argument(
        "--gpu", action="append", default=[], metavar="UUID",
        help="let the checks see this GPU alone, cuda:0 in the order given (repeatable)",
    )  # fmt: skip


@contextlib.contextmanager
def seeing_gpus(uuids: Sequence[str], found: HostGpus | None = None) -> Iterator[None]:
    """Have every process that starts within the block see these GPUs alone, cuda:0 being the first of them.

    CUDA takes the UUIDs in CUDA_VISIBLE_DEVICES, and an instrument asks NVML for the GPU by the UUID that PyTorch tells
    of its device: both judge the same one, in whatever order either counts.

    Args:
        uuids: of GPUs of this host; none: nothing is changed.
        found: the host's GPUs; None: asks the driver.

    Raises:
        ParamsError: there is no such GPU here, it is named twice, or it cannot be driven.
    """
    if not uuids:
        yield
        return
    _refuse_impossible(uuids, found)
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(CUDA_VISIBLE_DEVICES=",".join(uuids), CUDA_DEVICE_ORDER="PCI_BUS_ID")
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _refuse_impossible(uuids: Sequence[str], found: HostGpus | None) -> None:
    from djinn_checks.instruments.gpus import find_gpus

    known = {gpu.uuid: gpu for gpu in (find_gpus() if found is None else found).gpus}
    there = ", ".join(f"{gpu.uuid} ({gpu.name})" for gpu in known.values())
    for uuid in uuids:
        if uuid not in known:
            has = f"it has {there}" if there else "no NVIDIA driver answers here"
            raise ParamsError(f"--gpu {uuid}: this host has no GPU of that UUID; {has}")
        if known[uuid].left_out:
            raise ParamsError(f"--gpu {uuid}: {known[uuid].left_out}")
        if list(uuids).count(uuid) > 1:
            raise ParamsError(f"--gpu {uuid}: stands twice; leave one")


def refuse_other_devices(devices: Sequence[object], count: int) -> None:
    """Refuse jobs whose device is a GPU that `--gpu` hides from them.

    Args:
        devices: what the jobs' parameters say.
        count: of the GPUs that they will see; 0: all of the host.

    Raises:
        ParamsError: one of them is none of these.
    """
    for device in devices:
        kind, _, index = str(device).partition(":")
        if count and kind == "cuda" and index.isdecimal() and int(index) >= count:
            raise ParamsError(
                f"device: {device} is hidden by --gpu, whose GPUs count from cuda:0 to cuda:{count - 1}; use cuda or auto"
            )
