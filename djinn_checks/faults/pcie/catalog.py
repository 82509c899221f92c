"""Faults of the PCIe check: systems that only claim to fill the link, and instruments that went wrong.

Everywhere they are tried on traffic that is made to measure (`defects.py`), where the only thing wrong is the
planted one. On a GPU systems and neighbours do it over the real link as well (`systems.py`); without one,
what a weight witness can see is run for real between two places in host memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch

from djinn_checks.faults.base import Fault
from djinn_checks.faults.pcie import defects, second_copies, systems
from djinn_checks.faults.pcie.made import made
from djinn_checks.faults.pcie.stream_catalog import STREAM_FAULTS
from djinn_checks.faults.pcie.systems import run_pcie
from djinn_checks.faults.pcie.traffic import CLAIMED_BYTES, FULL_RATE, PASSES
from djinn_checks.faults.streaming import HooksDoNothing, stream_over
from djinn_checks.outcome import Status
from djinn_checks.systems.base import System
from djinn_checks.systems.ring import RingSystem

_MODEL_OF_FORMULA_BYTES = 13_000_000_000


def _on_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def _on_cpu(device: torch.device) -> bool:
    return device.type == "cpu"


def _real(
    *,
    name: str,
    breaks: str,
    modelled_on: str,
    caught_by: str,
    system: Callable[..., System],
    applies: Callable[[torch.device], bool],
    effect: Status = Status.FAIL,
    neighbour: bool = False,
) -> Fault:
    """Return a fault of a system that runs for real, or of what goes on beside it."""
    run = run_pcie(system)
    return Fault(
        name=name,
        check="pcie",
        breaks=breaks,
        modelled_on=modelled_on,
        caught_by=caught_by,
        applies=applies,
        effect=effect,
        run=systems.beside_a_neighbour(run) if neighbour else run,
    )


_FORMULA = "the published bandwidth script, which multiplies the model's size by the number of passes"
_HOOKS = "Djinn's published weight hooks, whose bodies are empty"
_TWICE = "bytes counted when asked for and when done"
_SHARED = "a shared machine"
_UNSEEN = Status.INCONCLUSIVE

_FAULTS = (
    made(
        name="claims_without_moving",
        breaks="Nothing is streamed, and all of it is claimed.",
        modelled_on=_FORMULA,
        caught_by="claimed_vs_counted",
        make=defects.moves_share,
        dose=0.0,
        unit="share that is moved",
        smaller=(0.5, 0.9, 0.98, 0.985, 0.992, 0.995),
    ),
    made(
        name="claims_twice",
        breaks="Twice the moved bytes are claimed.",
        modelled_on=_TWICE,
        caught_by="claimed_vs_counted",
        make=defects.claims_more,
        dose=1.0,
        unit="share claimed beside",
        smaller=(0.1, 0.05),
    ),
    made(
        name="claims_two_percent_more",
        breaks="Two percent more than the moved bytes are claimed.",
        modelled_on="padding that is counted and not copied",
        caught_by="claimed_vs_counted",
        make=defects.claims_more,
        dose=0.02,
        unit="share claimed beside",
        smaller=(0.015, 0.011, 0.009, 0.005),
    ),
    made(
        name="claims_from_formula",
        breaks="Passes times model size is claimed, while a part stays resident.",
        modelled_on=_FORMULA,
        caught_by="claimed_vs_counted",
        make=defects.claims_more,
        dose=PASSES * _MODEL_OF_FORMULA_BYTES / CLAIMED_BYTES - 1,
    ),
    made(
        name="pageable_copies",
        breaks="The copies come from memory that is not pinned.",
        modelled_on="`tensor.cuda()` of a state dict",
        caught_by="rx_above_threshold",
        make=defects.slower,
        dose=8.5e9 / FULL_RATE,
        unit="share of the full rate",
        smaller=(0.3, 0.39, 0.41, 0.6),
    ),
    made(
        name="no_overlap",
        breaks="Copies wait for the computation: three quarters of the time the link is full.",
        modelled_on="a synchronize() before each layer",
        caught_by="rx_of_ceiling",
        make=defects.idles,
        dose=0.25,
        unit="share of each 8 ms idle",
        smaller=(0.15, 0.12, 0.1, 0.05),
    ),
    made(
        name="bursts_with_pauses",
        breaks="The link rests for 30 ms in each pass: the mean stays far above the paper's threshold.",
        modelled_on="the recorded trace `bursty`",
        caught_by="rx_of_ceiling",
        make=defects.pauses,
        dose=0.03,
        unit="s of pause in every 0.2 s",
        smaller=(0.01, 0.004, 0.001),
    ),
    made(
        name="more_resident_than_declared",
        breaks="Half of what should be streamed stays on the device.",
        modelled_on="a budget in elements, not bytes",
        caught_by="streams_the_model",
        make=defects.slower,
        dose=0.5,
        unit="share of the bytes streamed",
        smaller=(0.9, 0.98, 0.99, 0.999),
    ),
    made(
        name="link_busy_before",
        breaks="Another process uses the link.",
        modelled_on=_SHARED,
        caught_by="link_quiet",
        effect=_UNSEEN,
        make=defects.busy_before,
        dose=0.05,
        unit="share of the link",
        smaller=(0.02, 0.011, 0.009),
    ),
    made(
        name="link_busy_during",
        breaks="Another process takes a fifth of the link while the system runs.",
        modelled_on=_SHARED,
        caught_by="claimed_vs_counted",
        make=defects.busy_during,
        dose=0.2,
        unit="share of the link",
        smaller=(0.1, 0.055, 0.05, 0.011, 0.009),
    ),
    made(
        name="ceiling_on_a_busy_link",
        breaks="Another process uses the link while the ceiling is measured, which comes out too low.",
        modelled_on=_SHARED,
        caught_by="ceiling_undisturbed",
        effect=_UNSEEN,
        make=defects.ceiling_disturbed,
        dose=0.1,
        unit="share of the link",
        smaller=(0.05, 0.011, 0.009),
    ),
    made(
        name="ceiling_drifts",
        breaks="The link is slower after the run than before it.",
        modelled_on="a retrained or throttled link",
        caught_by="ceiling_steady",
        effect=_UNSEEN,
        make=defects.drifts,
        dose=0.1,
        unit="share of the ceiling",
        smaller=(0.06, 0.04, 0.02),
    ),
    made(
        name="ceiling_never_arrives",
        breaks="The copies that the ceiling rests on do not deliver their bytes.",
        modelled_on="defective memory",
        caught_by="ceiling_verified",
        effect=_UNSEEN,
        make=defects.never_arrives,
        dose=0.0,
    ),
    made(
        name="counters_do_not_repeat",
        breaks="A second known copy is counted one percent off.",
        modelled_on="a sampler that misses readings",
        caught_by="calibration",
        effect=_UNSEEN,
        make=defects.does_not_repeat,
        dose=0.01,
        unit="share of the bytes",
        smaller=(0.005, 0.0031, 0.0029),
    ),
    made(
        name="wraps_missed",
        breaks="Readings are so far apart that the counters wrap in between.",
        modelled_on="`nvidia-smi dmon` at ten readings per second, on 32-bit counters",
        caught_by="counters_complete",
        effect=_UNSEEN,
        make=defects.readings_apart,
        dose=100,
        unit="ms between readings",
        smaller=(80, 50, 30, 10),
    ),
    made(
        name="counter_freezes",
        breaks="The counters stop counting in the midst of the run.",
        modelled_on="a driver that caches values",
        caught_by="counters_complete",
        effect=_UNSEEN,
        make=defects.freezes,
        dose=0.5,
        unit="share of the run",
        smaller=(0.1, 0.02, 0.005),
    ),
    made(
        name="receive_counter_dies",
        breaks="The counter of received bytes stands still, and that of sent ones goes on.",
        modelled_on="a driver that caches values",
        caught_by="counters_alive",
        make=defects.receive_dies,
        dose=1.0,
        unit="share of the run",
        smaller=(0.1, 0.02, 0.005),
        effect=_UNSEEN,
    ),
    made(
        name="counter_set_back",
        breaks="The counter of received bytes starts anew in mid-run, as if half a wrap came at once.",
        modelled_on="a reset of the GPU",
        caught_by="counted_is_possible",
        make=defects.set_back,
        dose=0.5,
        unit="share of a wrap counted before",
        smaller=(0.1, 0.9, 0.98),
        effect=_UNSEEN,
    ),
    made(
        name="more_than_the_link",
        breaks="Twice what the link can carry is counted, and claimed.",
        modelled_on=_TWICE,
        caught_by="counted_is_possible",
        make=defects.slower,
        dose=2.0,
        unit="times the full rate",
        smaller=(1.5, 1.2, 1.1),
        effect=_UNSEEN,
    ),
    made(
        name="sampler_dies",
        breaks="The sampler dies half-way.",
        modelled_on="an out-of-memory kill",
        caught_by="counters_complete",
        effect=_UNSEEN,
        make=defects.sampler_dies,
        dose=0.5,
        unit="share of the run",
        smaller=(0.1, 0.02, 0.005),
    ),
    _real(
        name="host_streams_nothing",
        breaks="The model is resident in host memory, and the planned bytes are claimed.",
        modelled_on=_HOOKS,
        caught_by="streams_the_model",
        system=HooksDoNothing,
        applies=_on_cpu,
    ),
    _real(
        name="host_claims_half",
        breaks="Half of the bytes that were certainly written are claimed.",
        modelled_on="bytes counted in elements of two",
        caught_by="claimed_vs_counted",
        system=partial(systems.ClaimsShare, share=0.5),
        applies=_on_cpu,
    ),
    _real(
        name="gpu_claims_without_moving",
        breaks="The model is resident on a real GPU, and the planned bytes are claimed.",
        modelled_on=_HOOKS,
        caught_by="claimed_vs_counted",
        system=HooksDoNothing,
        applies=_on_gpu,
    ),
    _real(
        name="gpu_claims_twice",
        breaks="Twice the moved bytes are claimed, over a real link.",
        modelled_on=_TWICE,
        caught_by="claimed_vs_counted",
        system=partial(systems.ClaimsShare, share=2.0),
        applies=_on_gpu,
    ),
    _real(
        name="gpu_pageable_copies",
        breaks="The ring's copies come from memory that is not pinned.",
        modelled_on="`tensor.cuda()` of a state dict",
        caught_by="rx_above_threshold",
        system=stream_over(systems.open_pageable),
        applies=_on_gpu,
    ),
    _real(
        name="gpu_no_overlap",
        breaks="Each copy starts when the computation asks for it, which takes 3 ms in each layer.",
        modelled_on="a synchronize() before each layer",
        caught_by="rx_of_ceiling",
        system=systems.WorksWithoutOverlap,
        applies=_on_gpu,
    ),
    _real(
        name="gpu_bursts_with_pauses",
        breaks="The system rests 20 ms twice per pass.",
        modelled_on="the recorded trace `bursty`",
        caught_by="rx_of_ceiling",
        system=systems.Pauses,
        applies=_on_gpu,
    ),
    _real(
        name="gpu_more_resident_than_declared",
        breaks="Twice the budget stays on the device.",
        modelled_on="a budget in elements, not bytes",
        caught_by="streams_the_model",
        system=systems.KeepsMore,
        applies=_on_gpu,
    ),
    _real(
        name="gpu_junk_beside_resident_copy",
        breaks="The model is resident on a real GPU, and junk of the planned size is copied for each pass.",
        modelled_on="traffic made for the counter's sake",
        caught_by="device_memory",
        system=second_copies.MovesJunk,
        applies=_on_gpu,
    ),
    _real(
        name="gpu_second_copy",
        breaks="All that is streamed lies on the device a second time.",
        modelled_on="a cache of weights that is not counted as weights",
        caught_by="device_memory",
        system=second_copies.KeepsSecondCopy,
        applies=_on_gpu,
    ),
    _real(
        name="gpu_link_busy",
        breaks="Another process copies to the same GPU all the while.",
        modelled_on=_SHARED,
        caught_by="link_quiet",
        effect=_UNSEEN,
        system=RingSystem,
        applies=_on_gpu,
        neighbour=True,
    ),
    _real(
        name="gpu_sampler_dies",
        breaks="The process that reads the counters is killed in the midst of a real run.",
        modelled_on="an out-of-memory kill",
        caught_by="counters_complete",
        effect=_UNSEEN,
        system=systems.KillsTheSampler,
        applies=_on_gpu,
    ),
)

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in (*_FAULTS, *STREAM_FAULTS)}
