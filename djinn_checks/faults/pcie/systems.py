"""Systems that do wrong on a link while the PCIe check runs for real, and a neighbour that uses the same link.

On a GPU a run takes some seconds: a model with a dozen layers of Llama-2-7B's shape, 5 GB in float16, so that a layer
takes the link 7 ms as it does in the whole model. Without a GPU a tiny one streams between two places in host memory.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from djinn_checks.checks.pcie.check import check_pcie
from djinn_checks.engine.link import open_link
from djinn_checks.errors import SystemUnavailableError
from djinn_checks.faults.streaming import SpoiledLink
from djinn_checks.models.open import Model
from djinn_checks.outcome import Outcome
from djinn_checks.params import PcieParams
from djinn_checks.systems.base import System
from djinn_checks.systems.ring import RingSystem

_LAYERS = 12
_GPU = {"dtype": "float16", "budget_fraction": 0.3, "warmup_passes": 3}
_CPU = {"model": "random:tiny", "dtype": "float32", "budget_fraction": 0.5, "duration_s": 1.0}
_WORK_CYCLES = 5_500_000  # of a GPU's clock: some 3 ms
_REST_S = 0.02
"""Longer than the copies of two layers take, which may still be under way when the system rests."""
_DIES_AFTER = 12
"""Forwards; in two seconds there are two dozen."""


def run_pcie(factory: Callable[..., System], *, gpu_seconds: float = 2.0) -> Callable[[torch.device], Outcome]:
    """Return a function that runs the PCIe check over the link of this machine."""

    def run(device: torch.device) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="djinn-checks-pcie-") as folder:
            on_gpu = {**_GPU, "duration_s": gpu_seconds, "model": _gpu_shape(Path(folder))}
            values = _CPU if device.type == "cpu" else on_gpu
            params = PcieParams.create(device=str(device), sweep=False, **values)
            return check_pcie(params, system_factory=factory)

    return run


def _gpu_shape(folder: Path) -> str:
    values = json.loads((resources.files("djinn_checks.models") / "shapes" / "llama-2-7b.json").read_text())
    path = folder / "config.json"
    path.write_text(json.dumps(values | {"num_hidden_layers": _LAYERS}))
    return f"random:{path}"


class ClaimsShare(RingSystem):
    """Claims a share of the bytes that it moved: half of them, or each twice."""

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int, share: float) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        self._share = share

    def claimed_bytes(self) -> int | None:
        moved = super().claimed_bytes()
        return None if moved is None else int(self._share * moved)


class WaitsForCopies(SpoiledLink):
    """Copies only when the computation asks for it: nothing overlaps."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner, lambda number, slot, destination, source: (destination, source))
        self._asked: dict[int, tuple[Tensor, Tensor, int | None]] = {}

    def copy(self, slot: int, destination: Tensor, source: Tensor, *, after: int | None) -> None:
        self._asked[slot] = (destination, source, after)

    def wait(self, slot: int) -> None:
        asked = self._asked.pop(slot, None)
        if asked is not None:
            torch.cuda.current_stream().synchronize()
            super().copy(slot, asked[0], asked[1], after=asked[2])
        super().wait(slot)


class WorksWithoutOverlap(RingSystem):
    """Computes 3 ms in each layer, as with a longer batch, and copies only when the computation asks for it.

    A ring hides that computation behind the copies, which take 7 ms each. Without any, there is next to nothing
    to overlap, and a link that is idle for a twentieth of the time is still as full as the claim says.
    """

    def __init__(self, model: Any, *, device: torch.device, budget_bytes: int) -> None:
        super().__init__(
            model,
            device=device,
            budget_bytes=budget_bytes,
            link_factory=lambda device, slots: WaitsForCopies(open_link(device, slots)),
        )

    def open(self) -> nn.Module:
        module = super().open()
        for name, inner in module.named_modules():
            if re.fullmatch(r".*layers\.\d+", name):
                inner.register_forward_pre_hook(lambda *_: torch.cuda._sleep(_WORK_CYCLES))
        return module


class Pauses(RingSystem):
    """Rests twice per pass, so that the link is busy in bursts."""

    def open(self) -> nn.Module:
        module = super().open()

        def rest(*_: Any) -> None:
            torch.cuda.current_stream().synchronize()
            time.sleep(_REST_S)

        for name, inner in module.named_modules():
            if name.endswith(("layers.4", "layers.8")):
                inner.register_forward_pre_hook(rest)
        return module


class KeepsMore(RingSystem):
    """Keeps twice the budget resident and says nothing of it."""

    def __init__(self, model: Any, *, device: torch.device, budget_bytes: int) -> None:
        super().__init__(model, device=device, budget_bytes=2 * budget_bytes)


def open_pageable(device: torch.device, slots: int) -> SpoiledLink:
    """Return a link that copies from memory that is not pinned, as a state dict's tensors are."""
    copies: dict[int, Tensor] = {}

    def spoil(number: int, slot: int, destination: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        return destination, copies.setdefault(slot, source.clone())

    return SpoiledLink(open_link(device, slots), spoil)


class KillsTheSampler(RingSystem):
    """Streams as it should, while the process that reads the counters is killed in the midst of the run."""

    def open(self) -> nn.Module:
        module = super().open()
        done = 0

        def count(*_: Any) -> None:
            nonlocal done
            done += 1
            if done == _DIES_AFTER:
                _kill_samplers()

        module.register_forward_hook(count)
        return module


def _kill_samplers() -> None:
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "djinn_checks.instruments.sampler" in child.cmdline():
                child.kill()


_NEIGHBOUR = """
import sys, torch
device = torch.device(sys.argv[1])
source, to = torch.empty(2**28, dtype=torch.uint8).pin_memory(), torch.empty(2**28, dtype=torch.uint8, device=device)
print("busy", flush=True)
while True:
    to.copy_(source, non_blocking=True)
    torch.cuda.synchronize()
"""


def beside_a_neighbour(run: Callable[[torch.device], Outcome]) -> Callable[[torch.device], Outcome]:
    """Return `run` with another process copying to the same GPU all the while."""

    def busy(device: torch.device) -> Outcome:
        with _neighbour(device):
            return run(device)

    return busy


@contextlib.contextmanager
def _neighbour(device: torch.device) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", _NEIGHBOUR, str(device)], stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None or process.stdout.readline().strip() != "busy":
            raise SystemUnavailableError("the neighbour that should use the link ended before it did")
        yield
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
