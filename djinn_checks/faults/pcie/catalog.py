"""Faults of the PCIe check: systems that only claim to fill the link, and instruments that went wrong.

Everywhere they are tried on traffic that is made to measure (`traffic.py`), where the only thing wrong is the
planted one. On a GPU systems and neighbours do it over the real link as well (`pcie_systems.py`); without one,
what a weight witness can see is run for real between two places in host memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from djinn_checks.checks.conclude import conclude
from djinn_checks.checks.pcie.check import ANATOMY
from djinn_checks.checks.pcie.evidence import PcieEvidence
from djinn_checks.faults.base import Doses, Fault
from djinn_checks.faults.pcie import systems
from djinn_checks.faults.pcie.systems import run_pcie
from djinn_checks.faults.pcie.traffic import (
    CEILING,
    CLAIMED_BYTES,
    END_S,
    FULL_RATE,
    PASS_BYTES,
    PASSES,
    START_S,
    make_evidence,
    make_series,
)
from djinn_checks.faults.streaming import HooksDoNothing, stream_over
from djinn_checks.instruments.counters import CounterSeries, build_series
from djinn_checks.outcome import Outcome, Status
from djinn_checks.systems.base import System
from djinn_checks.systems.ring import RingSystem

_PERIOD_S = 0.008
_MODEL_OF_FORMULA_BYTES = 13_000_000_000


def judge_evidence(make: Callable[[], PcieEvidence]) -> Callable[[torch.device], Outcome]:
    """Return a function that judges evidence made to measure."""

    return lambda device: conclude(ANATOMY, make(), {})


def _on_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def _on_cpu(device: torch.device) -> bool:
    return device.type == "cpu"


# Evidence made to measure, each with a dose


def _claims_more(share: float) -> PcieEvidence:
    """Claim this share of the moved bytes on top of them."""
    return make_evidence(make_series(), claimed_bytes=int((1 + share) * CLAIMED_BYTES))


def _moves_share(share: float) -> PcieEvidence:
    """Move this share of what is claimed."""
    return make_evidence(make_series(share * FULL_RATE), claimed_bytes=CLAIMED_BYTES)


def _truly(rate: float | Callable[[float], float], moved: float) -> PcieEvidence:
    """Traffic of another shape, truly claimed: `moved` is the part of a full link's bytes that it carries."""
    found = make_evidence(make_series(rate), claimed_bytes=int(moved * CLAIMED_BYTES))
    assert found.run is not None  # noqa: S101 - made above
    return replace(found, run=replace(found.run, predicted_bytes=int(moved * PASS_BYTES)))


def _slower(share: float) -> PcieEvidence:
    return _truly(share * FULL_RATE, share)


def _idles(share: float) -> PcieEvidence:
    """Leave the link idle for this share of each 8 ms."""
    return _truly(lambda t: CEILING if t % _PERIOD_S < (1 - share) * _PERIOD_S else 0.0, 1 - share)


def _pauses(seconds: float) -> PcieEvidence:
    """Pause for so long in every fifth of a second, the length of a pass, and be full otherwise."""
    return _truly(lambda t: 0.0 if t % 0.2 < seconds else CEILING, 1 - seconds / 0.2)


def _busy_during(share: float) -> PcieEvidence:
    """Another process takes this share of a full link while the system runs."""
    return make_evidence(make_series(), claimed_bytes=int((1 - share) * CLAIMED_BYTES))


def _link(calibration: dict[str, Any] | None = None, after: dict[str, Any] | None = None) -> PcieEvidence:
    found = make_evidence()
    link = found.link
    if link.calibration is not None and calibration:
        link = replace(link, calibration=replace(link.calibration, **calibration))
    if link.ceiling_after is not None and after:
        link = replace(link, ceiling_after=replace(link.ceiling_after, **after))
    return replace(found, link=link)


def _busy_before(share: float) -> PcieEvidence:
    return _link(calibration={"idle_bytes_per_s": share * CEILING})


def _ceiling_disturbed(share: float) -> PcieEvidence:
    """While the ceiling is measured, this share of what the link carries is another's."""
    return _link(after={"copied_bytes": int((1 - share) * CEILING * 0.8)})


def _drifts(share: float) -> PcieEvidence:
    return _link(after={"bytes_per_s": (1 - share) * CEILING})


def _does_not_repeat(share: float) -> PcieEvidence:
    return _link(calibration={"residual": share})


def _stops(share: float, *, freeze: bool) -> PcieEvidence:
    """Lose the counters for this share of the run: they stand still, or nobody reads them any more."""
    at = END_S - share * (END_S - START_S)
    if not freeze:
        return make_evidence(make_series(end_s=at))
    whole = make_series()
    stop = int(whole.t_s.searchsorted(at))
    rx, tx = whole.raw.rx.copy(), whole.raw.tx.copy()
    rx[stop:], tx[stop:] = rx[stop], tx[stop]
    return make_evidence(build_series(whole.t_s, whole.t_s, rx, tx, source="made to measure"))


def _freezes(share: float) -> PcieEvidence:
    return _stops(share, freeze=True)


def _sampler_dies(share: float) -> PcieEvidence:
    return _stops(share, freeze=False)


def _readings_apart(milliseconds: float) -> PcieEvidence:
    """Read so rarely: at a full link a wrap of 2^32 goes by in 79 ms."""
    whole = make_series()
    raw, every = whole.raw, slice(None, None, int(milliseconds))
    times = whole.t_s[every]
    series: CounterSeries = build_series(times, times, raw.rx[every], raw.tx[every], source="made to measure")
    return make_evidence(series)


def _made(name: str, caught_by: str, make: Callable[[float], PcieEvidence], dose: float, unit: str,
          smaller: tuple[float, ...], breaks: str, modelled_on: str, *,
          effect: Status = Status.FAIL) -> Fault:  # fmt: skip
    def run(size: float, device: torch.device) -> Outcome:
        return judge_evidence(lambda: make(size))(device)

    return Fault(
        name=name, check="pcie", breaks=breaks, modelled_on=modelled_on, caught_by=caught_by, effect=effect,
        run=lambda device: run(dose, device), doses=Doses(unit=unit, sizes=smaller, run=run) if smaller else None,
    )  # fmt: skip


def _real(name: str, caught_by: str, factory: Callable[..., System], applies: Callable[[torch.device], bool],
          breaks: str, modelled_on: str, *, effect: Status = Status.FAIL,
          neighbour: bool = False) -> Fault:  # fmt: skip
    run = run_pcie(factory)
    return Fault(
        name=name, check="pcie", breaks=breaks, modelled_on=modelled_on, caught_by=caught_by, applies=applies,
        effect=effect, run=systems.beside_a_neighbour(run) if neighbour else run,
    )  # fmt: skip


_FORMULA = "the published bandwidth script, which multiplies the model's size by the number of passes"
_HOOKS = "Djinn's published weight hooks, whose bodies are empty"
_TWICE = "bytes counted when asked for and when done"
_SHARED = "a shared machine"
_UNSEEN = Status.INCONCLUSIVE

_FAULTS = (
    _made("claims_without_moving", "claimed_vs_counted", _moves_share, 0.0, "share that is moved",
          (0.5, 0.9, 0.98, 0.985, 0.992, 0.995), "Nothing is streamed, and all of it is claimed.", _FORMULA),
    _made("claims_twice", "claimed_vs_counted", _claims_more, 1.0, "share claimed beside", (0.1, 0.05),
          "Twice the moved bytes are claimed.", _TWICE),
    _made("claims_two_percent_more", "claimed_vs_counted", _claims_more, 0.02, "share claimed beside",
          (0.015, 0.011, 0.009, 0.005), "Two percent more than the moved bytes are claimed.",
          "padding that is counted and not copied"),
    _made("claims_from_formula", "claimed_vs_counted", _claims_more,
          PASSES * _MODEL_OF_FORMULA_BYTES / CLAIMED_BYTES - 1, "", (),
          "Passes times model size is claimed, while a part stays resident.", _FORMULA),
    _made("pageable_copies", "rx_above_threshold", _slower, 8.5e9 / FULL_RATE, "share of the full rate",
          (0.3, 0.39, 0.41, 0.6), "The copies come from memory that is not pinned.", "`tensor.cuda()` of a state dict"),
    _made("no_overlap", "rx_of_ceiling", _idles, 0.25, "share of each 8 ms idle", (0.15, 0.12, 0.1, 0.05),
          "Copies wait for the computation: three quarters of the time the link is full.",
          "a synchronize() before each layer"),
    _made("bursts_with_pauses", "rx_of_ceiling", _pauses, 0.03, "s of pause in every 0.2 s", (0.01, 0.004, 0.001),
          "The link rests for 30 ms in each pass: the mean stays far above the paper's threshold.",
          "the recorded trace `bursty`"),
    _made("more_resident_than_declared", "streams_the_model", _slower, 0.5, "share of the bytes streamed",
          (0.9, 0.98, 0.99, 0.999), "Half of what should be streamed stays on the device.",
          "a budget in elements, not bytes"),
    _made("link_busy_before", "link_quiet", _busy_before, 0.05, "share of the link", (0.02, 0.011, 0.009),
          "Another process uses the link.", _SHARED, effect=_UNSEEN),
    _made("link_busy_during", "claimed_vs_counted", _busy_during, 0.2, "share of the link", (0.05, 0.011, 0.009),
          "Another process takes a fifth of the link while the system runs.", _SHARED),
    _made("ceiling_on_a_busy_link", "ceiling_undisturbed", _ceiling_disturbed, 0.1, "share of the link",
          (0.05, 0.011, 0.009), "Another process uses the link while the ceiling is measured, which comes out too low.",
          _SHARED, effect=_UNSEEN),
    _made("ceiling_drifts", "ceiling_steady", _drifts, 0.1, "share of the ceiling", (0.06, 0.04, 0.02),
          "The link is slower after the run than before it.", "a retrained or throttled link", effect=_UNSEEN),
    _made("ceiling_never_arrives", "ceiling_verified", lambda dose: _link(after={"verified": False}), 0.0, "", (),
          "The copies that the ceiling rests on do not deliver their bytes.", "defective memory", effect=_UNSEEN),
    _made("counters_do_not_repeat", "calibration", _does_not_repeat, 0.01, "share of the bytes",
          (0.005, 0.0031, 0.0029), "A second known copy is counted one percent off.",
          "a sampler that misses readings", effect=_UNSEEN),
    _made("wraps_missed", "counters_complete", _readings_apart, 100, "ms between readings", (80, 50, 30, 10),
          "Readings are so far apart that the counters wrap in between.",
          "`nvidia-smi dmon` at ten readings a second, on 32-bit counters", effect=_UNSEEN),
    _made("counter_freezes", "counters_complete", _freezes, 0.5, "share of the run", (0.1, 0.02, 0.005),
          "The counters stop counting in the midst of the run.", "a driver that caches values", effect=_UNSEEN),
    _made("sampler_dies", "counters_complete", _sampler_dies, 0.5, "share of the run", (0.1, 0.02, 0.005),
          "The sampler dies half-way.", "an out-of-memory kill", effect=_UNSEEN),
    _real("host_streams_nothing", "streams_the_model", HooksDoNothing, _on_cpu,
          "The model is resident in host memory, and the planned bytes are claimed.", _HOOKS),
    _real("host_claims_half", "claimed_vs_counted", systems.ClaimsHalf, _on_cpu,
          "Half of the bytes that were certainly written are claimed.", "bytes counted in elements of two"),
    _real("gpu_claims_without_moving", "claimed_vs_counted", HooksDoNothing, _on_gpu,
          "The model is resident on a real GPU, and the planned bytes are claimed.", _HOOKS),
    _real("gpu_claims_twice", "claimed_vs_counted", systems.ClaimsTwice, _on_gpu,
          "Twice the moved bytes are claimed, over a real link.", _TWICE),
    _real("gpu_pageable_copies", "rx_above_threshold", stream_over(systems.open_pageable), _on_gpu,
          "The ring's copies come from memory that is not pinned.", "`tensor.cuda()` of a state dict"),
    _real("gpu_no_overlap", "rx_of_ceiling", systems.WorksWithoutOverlap, _on_gpu,
          "Each copy starts when the computation asks for it, which takes 3 ms in each layer.",
          "a synchronize() before each layer"),
    _real("gpu_bursts_with_pauses", "rx_of_ceiling", systems.Pauses, _on_gpu,
          "The system rests 20 ms twice a pass.", "the recorded trace `bursty`"),
    _real("gpu_more_resident_than_declared", "streams_the_model", systems.KeepsMore, _on_gpu,
          "Twice the budget stays on the device.", "a budget in elements, not bytes"),
    _real("gpu_link_busy", "link_quiet", RingSystem, _on_gpu,
          "Another process copies to the same GPU all the while.", _SHARED, effect=_UNSEEN, neighbour=True),
    _real("gpu_sampler_dies", "counters_complete", systems.KillsTheSampler, _on_gpu,
          "The process that reads the counters is killed in the midst of a real run.", "an out-of-memory kill",
          effect=_UNSEEN),
)  # fmt: skip

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _FAULTS}
