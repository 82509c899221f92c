"""Faults of the logits check: what a system that streams weights gets wrong."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

import torch

from djinn_checks.checks.logits.check import check_logits
from djinn_checks.faults.base import Doses, Fault
from djinn_checks.faults.logits import systems
from djinn_checks.faults.logits.copies import (
    MANTISSA_BITS,
    drop_end,
    drop_every,
    flip_bit,
    keep_stale,
    swap_layers,
    zero_weights,
)
from djinn_checks.faults.streaming import (
    HooksDoNothing,
    Spoil,
    UnawaitedLink,
    open_slow_link,
    spoil_copies,
    stream_over,
)
from djinn_checks.outcome import Outcome
from djinn_checks.params import Dtype, LogitsParams
from djinn_checks.systems.base import System

PROMPTS = [
    "The link is full for as long as the model runs, and the counters know nothing of the model.",
    "A ring that is smaller than the model moves every byte of it in every pass.",
]

Factory = Callable[..., System]


def run_logits(factory: Factory, *, tied: bool = False, dtype: Dtype = "float32") -> Callable[[torch.device], Outcome]:
    """Return a function that runs the logits check on a tiny model, seconds a run."""

    def run(device: torch.device) -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            params = LogitsParams.create(
                model=_tied_shape(Path(folder)) if tied else "random:tiny",
                device=str(device),
                dtype=dtype,
                prompts=PROMPTS,
                decode_tokens=3,
                budget_fraction=0.7 if tied else 0.5,
            )
            return check_logits(params, system_factory=factory)

    return run


def _tied_shape(folder: Path) -> str:
    """Return a tiny shape whose head is its embedding."""
    values = json.loads((resources.files("djinn_checks.models") / "shapes" / "tiny.json").read_text())
    path = folder / "config.json"
    path.write_text(json.dumps(values | {"tie_word_embeddings": True}))
    return f"random:{path}"


def _copies(make: Callable[[float], Callable[[], Spoil]]) -> Callable[[float], Factory]:
    """Return, for a dose, the reference system with copies that go wrong by it."""
    return lambda dose: spoil_copies(make(dose))


def _sized(system: type[System], field: str) -> Callable[[float], Factory]:
    """Return, for a dose, a system whose class has it for a field."""
    return lambda dose: type(system.__name__, (system,), {field: type(getattr(system, field))(dose)})


def _fault(name: str, caught_by: str, factory: Factory, breaks: str, modelled_on: str, *, tied: bool = False,
           dtype: Dtype = "float32", attempts: int = 1, unit: str = "", smaller: tuple[float, ...] = (),
           sized: Callable[[float], Factory] | None = None) -> Fault:  # fmt: skip
    def run_size(size: float, device: torch.device) -> Outcome:
        return run_logits(sized(size) if sized else factory, tied=tied, dtype=dtype)(device)

    return Fault(
        name=name, check="logits", breaks=breaks, modelled_on=modelled_on, caught_by=caught_by, attempts=attempts,
        run=run_logits(factory, tied=tied, dtype=dtype),
        doses=Doses(unit=unit, sizes=smaller, run=run_size) if sized else None,
    )  # fmt: skip


_NO_ECC = "memory without error correction"

_FAULTS = (
    _fault("hooks_do_nothing", "weights_streamed", HooksDoNothing,
           "The model is resident and the hooks move nothing; the planned bytes are claimed.",
           "Djinn's published weight hooks, whose bodies are empty"),
    _fault("copy_not_awaited", "weights_at_use",
           stream_over(lambda device, slots: UnawaitedLink(open_slow_link(device, slots))),
           "The computation does not wait for its copy.",
           "a ready event that is recorded and never waited for", attempts=5),
    _fault("slot_reused_early", "weights_at_use", systems.ReusesSlotsEarly,
           "A copy overwrites a slot one layer before it was used.",
           "an off-by-one in a ring's free list"),
    _fault("copy_dropped_now_and_then", "weights_at_use", spoil_copies(drop_every(3)),
           "One copy in three is not made.",
           "a copy request that is lost when a queue is full", unit="copies, of which one is dropped",
           smaller=(10, 30, 100), sized=_copies(drop_every)),
    _fault("second_half_dropped", "weights_at_use", spoil_copies(drop_end(0.5)),
           "Only the first half of one layer arrives.",
           "a length that is cut to what is left at the end of a buffer", unit="share of a layer",
           smaller=(0.1, 0.01, 0.002), sized=_copies(drop_end)),
    _fault("layers_swapped", "weights_at_use", spoil_copies(swap_layers),
           "Two layers get each other's weights.",
           "an index that counts streamed layers where one of all layers was meant"),
    _fault("stale_slot", "weights_at_use", spoil_copies(keep_stale),
           "One slot is filled in the first pass and never again.",
           "a cache that takes a layer for present because it once was"),
    _fault("row_zeroed", "weights_at_use", spoil_copies(zero_weights(64)),
           "64 neighbouring weights of one layer arrive as zeros.",
           "a page that was not faulted in when it was copied", unit="weights", smaller=(8, 1),
           sized=_copies(zero_weights)),
    _fault("bit_flipped_low", "weights_at_use", spoil_copies(flip_bit(0)),
           "The lowest mantissa bit of one weight is flipped.", f"{_NO_ECC}; the smallest dose there is"),
    _fault("bit_flipped_high", "weights_at_use", spoil_copies(flip_bit(MANTISSA_BITS - 1)),
           "The highest mantissa bit of one weight is flipped.", _NO_ECC, unit="bits up from the lowest",
           smaller=(18, 12, 6, 0), sized=_copies(flip_bit)),
    _fault("bit_flipped_exponent", "weights_at_use", spoil_copies(flip_bit(MANTISSA_BITS + 2)),
           "An exponent bit of one weight is flipped.", _NO_ECC),
    _fault("weights_rounded", "weights_at_use", systems.RoundsWeights,
           "The weights are rounded to bfloat16 and widened again.",
           "a loader whose default data type differs from the checkpoint's", unit="bits of every mantissa",
           smaller=(8, 2, 1), sized=_sized(systems.CutsWeights, "bits")),
    _fault("half_weights_rounded", "weights_at_use", systems.RoundsWeights,
           "Float16 weights are rounded through bfloat16.",
           "a checkpoint in float16 that is loaded with bfloat16 for a default", dtype="float16"),
    _fault("rotary_recomputed", "prefill_bit_equal", systems.RecomputesRotary,
           "The rotary table is recomputed by another formula.",
           "non-persistent buffers that are computed on another device than the reference's"),
    _fault("tied_head_stale", "weights_at_use", systems.StaleHead,
           "A tied head is untied, and keeps old values in one row.",
           "engines that copy tied weights by name, twice", tied=True, unit="relative change of one row",
           smaller=(1e-5, 2e-7), sized=_sized(systems.StaleHead, "change")),
    _fault("cache_off_by_one", "decode_bit_equal", systems.ForgetsOnePosition,
           "Decoding does not see the newest position of its KV cache.",
           "an off-by-one in the length of a restored cache"),
    _fault("head_in_short_type", "prefill_bit_equal", systems.ShortHead,
           "The head's logits are rounded to bfloat16.",
           "mixed precision that was left on", unit="bits of every logit's mantissa", smaller=(8, 2, 1),
           sized=_sized(systems.CutHead, "bits")),
    _fault("earlier_answer_repeated", "decode_bit_equal", systems.RepeatsItself,
           "Every seventh forward returns the logits of an earlier one.",
           "an output buffer that a later call finds unfinished", unit="forwards, of which one is wrong",
           smaller=(11, 23), sized=_sized(systems.RepeatsItself, "every")),
)  # fmt: skip

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _FAULTS}
