"""Faults of the PCIe check: systems that only claim to fill the link, and instruments that went wrong.

Those of the first kind run for real on a GPU. Everywhere they are tried on traffic that is made to measure
(`traffic.py`), where the only thing wrong is the planted one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.checks.pcie import check_pcie, conclude
from djinn_checks.checks.pcie_evidence import PcieEvidence
from djinn_checks.engine.link import open_link
from djinn_checks.faults.base import Fault
from djinn_checks.faults.copies import SpoiledLink, stream_over
from djinn_checks.faults.logits import HooksDoNothing
from djinn_checks.faults.traffic import (
    CEILING,
    CLAIMED_BYTES,
    END_S,
    FULL_RATE,
    PASS_BYTES,
    START_S,
    make_evidence,
    make_series,
)
from djinn_checks.instruments.counters import CounterSeries, build_series
from djinn_checks.outcome import Outcome, Status
from djinn_checks.params import PcieParams
from djinn_checks.systems.base import System
from djinn_checks.systems.ring import RingSystem

MODEL = "random:llama-2-7b"
_WORK_CYCLES = 5_500_000  # of a GPU's clock: some 3 ms
_PAUSE_S = 0.005


def judge_evidence(make: Callable[[], PcieEvidence]) -> Callable[[torch.device], Outcome]:
    """Return a function that judges evidence made to measure."""

    return lambda device: conclude(make(), {})


def run_pcie(factory: Callable[..., System]) -> Callable[[torch.device], Outcome]:
    """Return a function that runs the PCIe check on a GPU, a quarter of a minute a run."""

    def run(device: torch.device) -> Outcome:
        params = PcieParams.create(
            model=MODEL, device=str(device), dtype="float16", budget_fraction=0.25, duration_s=10.0, sweep=False
        )
        return check_pcie(params, system_factory=factory)

    return run


def _on_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


# Evidence made to measure


def _claiming(claimed: int, rate: float = FULL_RATE) -> Callable[[], PcieEvidence]:
    return lambda: make_evidence(make_series(rate), claimed_bytes=claimed)


def _traffic(rate: float | Callable[[float], float], moved: float) -> Callable[[], PcieEvidence]:
    """Traffic of another shape, truly claimed: `moved` is the part of a full link's bytes that it carries."""

    def make() -> PcieEvidence:
        found = make_evidence(make_series(rate), claimed_bytes=int(moved * CLAIMED_BYTES))
        assert found.run is not None  # noqa: S101 - made above
        return replace(found, run=replace(found.run, predicted_bytes=int(moved * PASS_BYTES)))

    return make


def _bursts(t: float) -> float:
    return CEILING if t % (2 * _PAUSE_S) < _PAUSE_S else 0.0


def _spoiled_link(calibration: dict[str, Any] | None = None, after: dict[str, Any] | None = None) -> PcieEvidence:
    found = make_evidence()
    link = found.link
    if link.calibration is not None and calibration:
        link = replace(link, calibration=replace(link.calibration, **calibration))
    if link.ceiling_after is not None and after:
        link = replace(link, ceiling_after=replace(link.ceiling_after, **after))
    return replace(found, link=link)


def _frozen() -> CounterSeries:
    """Counters that stop counting in the midst of the run, while readings go on."""
    whole = make_series()
    stop = int(whole.t_s.searchsorted((START_S + END_S) / 2))
    rx, tx = whole.raw.rx.copy(), whole.raw.tx.copy()
    rx[stop:], tx[stop:] = rx[stop], tx[stop]
    return build_series(whole.t_s, whole.t_s, rx, tx, source="made to measure")


def _skips_readings() -> CounterSeries:
    """Readings 100 ms apart: more than a wrap goes by between two of them."""
    whole = make_series()
    raw, every = whole.raw, slice(None, None, 100)
    times = whole.t_s[every]
    return build_series(times, times, raw.rx[every], raw.tx[every], source="made to measure")


# Systems on a GPU


class ClaimsTwice(RingSystem):
    """Claims every byte twice."""

    def claimed_bytes(self) -> int | None:
        moved = super().claimed_bytes()
        return None if moved is None else 2 * moved


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
    """Rests between two layers, so that the link is busy in bursts."""

    def open(self) -> nn.Module:
        module = super().open()

        def rest(*_: Any) -> None:
            torch.cuda.current_stream().synchronize()
            time.sleep(2 * _PAUSE_S)

        for name, inner in module.named_modules():
            if name.endswith(("layers.8", "layers.16", "layers.24")):
                inner.register_forward_pre_hook(rest)
        return module


class KeepsMore(RingSystem):
    """Keeps twice the budget resident and says nothing of it."""

    def __init__(self, model: Any, *, device: torch.device, budget_bytes: int) -> None:
        super().__init__(model, device=device, budget_bytes=2 * budget_bytes)


def _pageable(device: torch.device, slots: int) -> SpoiledLink:
    """Copies from memory that is not pinned, as a state dict's tensors are."""
    copies: dict[int, Tensor] = {}

    def spoil(number: int, slot: int, destination: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        return destination, copies.setdefault(slot, source.clone())

    return SpoiledLink(open_link(device, slots), spoil)


_FORMULA = "the published bandwidth script, which multiplies the model's size by the number of passes"

_FAULTS = (
    Fault(name="claims_without_moving", check="pcie", caught_by="claimed_vs_counted",
          breaks="Nothing is streamed, and all of it is claimed.", modelled_on=_FORMULA,
          run=judge_evidence(_claiming(CLAIMED_BYTES, rate=0.0))),
    Fault(name="claims_twice", check="pcie", caught_by="claimed_vs_counted",
          breaks="Twice the moved bytes are claimed.", modelled_on="bytes counted when asked for and when done",
          run=judge_evidence(_claiming(2 * CLAIMED_BYTES))),
    Fault(name="claims_two_percent_more", check="pcie", caught_by="claimed_vs_counted",
          breaks="Two percent more than the moved bytes are claimed; the smallest dose tried.",
          modelled_on="padding that is counted and not copied",
          run=judge_evidence(_claiming(int(1.02 * CLAIMED_BYTES)))),
    Fault(name="claims_from_formula", check="pcie", caught_by="claimed_vs_counted",
          breaks="Passes times model size is claimed, while a part stays resident.", modelled_on=_FORMULA,
          run=judge_evidence(_claiming(60 * 13_000_000_000))),
    Fault(name="pageable_copies", check="pcie", caught_by="rx_above_threshold",
          breaks="The copies come from memory that is not pinned.", modelled_on="`tensor.cuda()` of a state dict",
          run=judge_evidence(_traffic(8.5e9, 0.17))),
    Fault(name="no_overlap", check="pcie", caught_by="rx_of_ceiling",
          breaks="Copies wait for the computation: three quarters of the time the link is full.",
          modelled_on="a synchronize() before each layer",
          run=judge_evidence(_traffic(lambda t: CEILING if t % 0.008 < 0.006 else 0.0, 0.75))),
    Fault(name="bursts_with_pauses", check="pcie", caught_by="rx_of_ceiling",
          breaks="Bursts at full rate, with pauses that leave the mean above the paper's threshold.",
          modelled_on="the recorded trace `bursty`", run=judge_evidence(_traffic(_bursts, 0.5))),
    Fault(name="more_resident_than_declared", check="pcie", caught_by="streams_the_model",
          breaks="Half of what should be streamed stays on the device.", modelled_on="a budget in elements, not bytes",
          run=judge_evidence(_traffic(0.5 * FULL_RATE, 0.5))),
    Fault(name="link_busy_before", check="pcie", caught_by="link_quiet", effect=Status.INCONCLUSIVE,
          breaks="Another process uses the link.", modelled_on="a shared machine",
          run=judge_evidence(lambda: _spoiled_link(calibration={"idle_bytes_per_s": 0.05 * CEILING}))),
    Fault(name="ceiling_on_a_busy_link", check="pcie", caught_by="ceiling_undisturbed", effect=Status.INCONCLUSIVE,
          breaks="Another process uses the link while the ceiling is measured, which comes out too low.",
          modelled_on="a shared machine",
          run=judge_evidence(lambda: _spoiled_link(after={"copied_bytes": int(0.9 * CEILING * 0.8)}))),
    Fault(name="ceiling_drifts", check="pcie", caught_by="ceiling_steady", effect=Status.INCONCLUSIVE,
          breaks="The link is slower after the run than before it.", modelled_on="a retrained or throttled link",
          run=judge_evidence(lambda: _spoiled_link(after={"bytes_per_s": 0.9 * CEILING}))),
    Fault(name="ceiling_never_arrives", check="pcie", caught_by="ceiling_verified", effect=Status.INCONCLUSIVE,
          breaks="The copies that the ceiling rests on do not deliver their bytes.", modelled_on="defective memory",
          run=judge_evidence(lambda: _spoiled_link(after={"verified": False}))),
    Fault(name="counters_do_not_repeat", check="pcie", caught_by="calibration", effect=Status.INCONCLUSIVE,
          breaks="A second known copy is counted one percent off.", modelled_on="a sampler that misses readings",
          run=judge_evidence(lambda: _spoiled_link(calibration={"residual": 0.01}))),
    Fault(name="wraps_missed", check="pcie", caught_by="counters_complete", effect=Status.INCONCLUSIVE,
          breaks="Readings are so far apart that the counters wrap in between.",
          modelled_on="`nvidia-smi dmon` at ten readings a second, on 32-bit counters",
          run=judge_evidence(lambda: make_evidence(_skips_readings()))),
    Fault(name="counter_freezes", check="pcie", caught_by="counters_complete", effect=Status.INCONCLUSIVE,
          breaks="The counters stop counting in the midst of the run.", modelled_on="a driver that caches values",
          run=judge_evidence(lambda: make_evidence(_frozen()))),
    Fault(name="sampler_dies", check="pcie", caught_by="counters_complete", effect=Status.INCONCLUSIVE,
          breaks="The sampler dies half-way.", modelled_on="an out-of-memory kill",
          run=judge_evidence(lambda: make_evidence(make_series(end_s=(START_S + END_S) / 2)))),
    Fault(name="gpu_claims_without_moving", check="pcie", caught_by="claimed_vs_counted", applies=_on_gpu,
          breaks="The model is resident on a real GPU, and the planned bytes are claimed.",
          modelled_on="Djinn's published weight hooks, whose bodies are empty", run=run_pcie(HooksDoNothing)),
    Fault(name="gpu_claims_twice", check="pcie", caught_by="claimed_vs_counted", applies=_on_gpu,
          breaks="Twice the moved bytes are claimed, over a real link.",
          modelled_on="bytes counted when asked for and when done", run=run_pcie(ClaimsTwice)),
    Fault(name="gpu_pageable_copies", check="pcie", caught_by="rx_above_threshold", applies=_on_gpu,
          breaks="The ring's copies come from memory that is not pinned.",
          modelled_on="`tensor.cuda()` of a state dict",
          run=run_pcie(stream_over(_pageable))),
    Fault(name="gpu_no_overlap", check="pcie", caught_by="rx_of_ceiling", applies=_on_gpu,
          breaks="Each copy starts when the computation asks for it, which takes 3 ms in each layer.",
          modelled_on="a synchronize() before each layer", run=run_pcie(WorksWithoutOverlap)),
    Fault(name="gpu_bursts_with_pauses", check="pcie", caught_by="rx_of_ceiling", applies=_on_gpu,
          breaks="The system rests 10 ms three times a pass.", modelled_on="the recorded trace `bursty`",
          run=run_pcie(Pauses)),
    Fault(name="gpu_more_resident_than_declared", check="pcie", caught_by="streams_the_model", applies=_on_gpu,
          breaks="Twice the budget stays on the device.", modelled_on="a budget in elements, not bytes",
          run=run_pcie(KeepsMore)),
)  # fmt: skip

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _FAULTS}
