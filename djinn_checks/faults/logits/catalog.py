"""Faults of the logits check: what a system that streams weights gets wrong."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib import resources
from pathlib import Path

import torch

from djinn_checks.checks.logits.check import check_logits
from djinn_checks.faults.base import Doses, Fault
from djinn_checks.faults.logits import liars, systems
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
    """Return a function that runs the logits check on a tiny model, which takes seconds."""

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


def _fault(
    *,
    name: str,
    breaks: str,
    modelled_on: str,
    caught_by: str,
    system: Factory,
    tied: bool = False,
    dtype: Dtype = "float32",
    attempts: int = 1,
    says: str = "",
    applies: Callable[[torch.device], bool] = lambda device: True,
    unit: str = "",
    smaller: tuple[float, ...] = (),
    sized: Callable[[float], Factory] | None = None,
) -> Fault:
    """Return a fault of a system.

    Args:
        system: has the defect.
        tied: the model's head is its embedding.
        says: the criterion's reason mentions it.
        applies: tells whether it can be planted on a device.
        unit: what a dose counts.
        smaller: doses that are smaller than that of `system`.
        sized: gives the system with a dose.
    """

    def run_size(size: float, device: torch.device) -> Outcome:
        return run_logits(sized(size) if sized else system, tied=tied, dtype=dtype)(device)

    return Fault(
        name=name,
        check="logits",
        breaks=breaks,
        modelled_on=modelled_on,
        caught_by=caught_by,
        attempts=attempts,
        says=says,
        applies=applies,
        run=run_logits(system, tied=tied, dtype=dtype),
        doses=Doses(unit=unit, sizes=smaller, run=run_size) if sized else None,
    )


def _on_cpu(device: torch.device) -> bool:
    """On a GPU a replayed graph looks the same to a witness, and the link's counters tell, of a model of some size."""
    return device.type == "cpu"


_NO_ECC = "memory without error correction"

_FAULTS = (
    _fault(
        name="hooks_do_nothing",
        breaks="The model is resident and the hooks move nothing; the planned bytes are claimed.",
        modelled_on="Djinn's published weight hooks, whose bodies are empty",
        caught_by="weights_streamed",
        system=HooksDoNothing,
    ),
    _fault(
        name="copy_not_awaited",
        breaks="The computation does not wait for its copy.",
        modelled_on="a ready event that is recorded and never waited for",
        caught_by="weights_at_use",
        system=stream_over(lambda device, slots: UnawaitedLink(open_slow_link(device, slots))),
        attempts=5,
    ),
    _fault(
        name="slot_reused_early",
        breaks="A copy overwrites a slot one layer before it was used.",
        modelled_on="an off-by-one in a ring's free list",
        caught_by="weights_at_use",
        system=systems.ReusesSlotsEarly,
    ),
    _fault(
        name="copy_dropped_now_and_then",
        breaks="One copy in three is not made.",
        modelled_on="a copy request that is lost when a queue is full",
        caught_by="weights_at_use",
        system=spoil_copies(drop_every(3)),
        unit="copies, of which one is dropped",
        smaller=(10, 30, 100),
        sized=lambda dose: spoil_copies(drop_every(dose)),
    ),
    _fault(
        name="second_half_dropped",
        breaks="Only the first half of one layer arrives.",
        modelled_on="a length that is cut to what is left at the end of a buffer",
        caught_by="weights_at_use",
        system=spoil_copies(drop_end(0.5)),
        unit="share of a layer",
        smaller=(0.1, 0.01, 0.002),
        sized=lambda dose: spoil_copies(drop_end(dose)),
    ),
    _fault(
        name="layers_swapped",
        breaks="Two layers get each other's weights.",
        modelled_on="an index that counts streamed layers where one of all layers was meant",
        caught_by="weights_at_use",
        system=spoil_copies(swap_layers),
    ),
    _fault(
        name="stale_slot",
        breaks="One slot is filled in the first pass and never again.",
        modelled_on="a cache that takes a layer for present because it once was",
        caught_by="weights_at_use",
        system=spoil_copies(keep_stale),
    ),
    _fault(
        name="row_zeroed",
        breaks="64 neighbouring weights of one layer arrive as zeros.",
        modelled_on="a page that was not faulted in when it was copied",
        caught_by="weights_at_use",
        system=spoil_copies(zero_weights(64)),
        unit="weights",
        smaller=(8, 1),
        sized=lambda dose: spoil_copies(zero_weights(dose)),
    ),
    _fault(
        name="bit_flipped_low",
        breaks="The lowest mantissa bit of one weight is flipped.",
        modelled_on=f"{_NO_ECC}; the smallest dose there is",
        caught_by="weights_at_use",
        system=spoil_copies(flip_bit(0)),
    ),
    _fault(
        name="bit_flipped_high",
        breaks="The highest mantissa bit of one weight is flipped.",
        modelled_on=_NO_ECC,
        caught_by="weights_at_use",
        system=spoil_copies(flip_bit(MANTISSA_BITS - 1)),
        unit="bits up from the lowest",
        smaller=(18, 12, 6, 0),
        sized=lambda dose: spoil_copies(flip_bit(dose)),
    ),
    _fault(
        name="bit_flipped_exponent",
        breaks="An exponent bit of one weight is flipped.",
        modelled_on=_NO_ECC,
        caught_by="weights_at_use",
        system=spoil_copies(flip_bit(MANTISSA_BITS + 2)),
    ),
    _fault(
        name="weights_rounded",
        breaks="The weights are rounded to bfloat16 and widened again.",
        modelled_on="a loader whose default data type differs from the checkpoint's",
        caught_by="weights_at_use",
        system=systems.RoundsWeights,
        unit="bits of every mantissa",
        smaller=(8, 2, 1),
        sized=lambda dose: partial(systems.CutsWeights, bits=int(dose)),
    ),
    _fault(
        name="half_weights_rounded",
        breaks="Float16 weights are rounded through bfloat16.",
        modelled_on="a checkpoint in float16 that is loaded with bfloat16 for a default",
        caught_by="weights_at_use",
        system=systems.RoundsWeights,
        dtype="float16",
    ),
    _fault(
        name="rotary_recomputed",
        breaks="The rotary table is recomputed by another formula.",
        modelled_on="non-persistent buffers that are computed on another device than the reference's",
        caught_by="prefill_bit_equal",
        system=systems.RecomputesRotary,
    ),
    _fault(
        name="tied_head_stale",
        breaks="A tied head is untied, and keeps old values in one row.",
        modelled_on="engines that copy tied weights by name, twice",
        caught_by="weights_at_use",
        system=systems.StaleHead,
        tied=True,
        unit="relative change of one row",
        smaller=(1e-5, 2e-7),
        sized=lambda dose: partial(systems.StaleHead, change=dose),
    ),
    _fault(
        name="cache_off_by_one",
        breaks="Decoding does not see the newest position of its KV cache.",
        modelled_on="an off-by-one in the length of a restored cache",
        caught_by="decode_bit_equal",
        system=systems.ForgetsOnePosition,
    ),
    _fault(
        name="head_in_short_type",
        breaks="The head's logits are rounded to bfloat16.",
        modelled_on="mixed precision that was left on",
        caught_by="prefill_bit_equal",
        system=systems.ShortHead,
        unit="bits of every logit's mantissa",
        smaller=(8, 2, 1),
        sized=lambda dose: partial(systems.CutHead, bits=int(dose)),
    ),
    _fault(
        name="earlier_answer_repeated",
        breaks="Every seventh forward returns the logits of an earlier one.",
        modelled_on="an output buffer that a later call finds unfinished",
        caught_by="decode_bit_equal",
        system=systems.RepeatsItself,
        unit="forwards, of which one is wrong",
        smaller=(11, 23),
        sized=lambda dose: partial(systems.RepeatsItself, every=int(dose)),
    ),
    _fault(
        name="layers_of_others",
        breaks="The last layer's weights lie in the place of the first two layers', in every forward.",
        modelled_on="parameters of kept layers that are bound to views into a ring, which later layers pass through",
        caught_by="weights_at_use",
        says="model.layers.0 had the bytes of model.layers.5",
        system=liars.LaterLayersOverEarlier,
    ),
    _fault(
        name="decodes_from_resident",
        breaks="Prefills stream; decode steps use a second copy of the model, which lies on the device.",
        modelled_on="a system made for a check that watches one prefill",
        caught_by="weights_streamed",
        says="decode step",
        system=liars.stream_when(liars.in_prefill),
    ),
    _fault(
        name="streams_now_and_then",
        breaks="One forward in 37 streams; all others use a second copy of the model.",
        modelled_on="an offloader that keeps the model after its first use",
        caught_by="weights_streamed",
        system=liars.stream_when(liars.in_one_of(37)),
        unit="forwards, of which one streams",
        smaller=(9, 3, 2),
        sized=lambda dose: liars.stream_when(liars.in_one_of(dose)),
    ),
    _fault(
        name="streams_while_watched",
        breaks="It streams only while a function mode or hooks on all modules are seen.",
        modelled_on="an engine that takes another path under a profiler",
        caught_by="weights_streamed",
        system=liars.stream_when(liars.while_watched),
    ),
    _fault(
        name="answers_from_memory",
        breaks="What was asked before is answered from a dictionary, without the model.",
        modelled_on="a cache of answers before the engine",
        caught_by="weights_used_every_time",
        system=liars.AnswersFromMemory,
        applies=_on_cpu,
    ),
    _fault(
        name="answers_from_child",
        breaks="After the first pass a child process, which holds the whole model, gives the answers.",
        modelled_on="a front end that hands requests on to a second server",
        caught_by="weights_used_every_time",
        system=liars.AsksChild,
        applies=_on_cpu,
    ),
    _fault(
        name="false_address",
        breaks="The model lies on the device, in a class of parameters that gives a false address.",
        modelled_on="subclasses of tensors that override what they say of their memory",
        caught_by="weights_streamed",
        system=liars.FalseAddress,
    ),
    _fault(
        name="claims_hundredfold",
        breaks="Without a plan, a hundred times the bytes that move are claimed.",
        modelled_on="a count in bits, or of pages, that is taken for one of bytes",
        caught_by="bytes_claimed_vs_witnessed",
        system=liars.ClaimsHundredfold,
        unit="times what was moved",
        smaller=(30, 10),
        sized=lambda dose: partial(liars.ClaimsHundredfold, factor=dose),
    ),
    _fault(
        name="replaced_for_all",
        breaks="A norm of less precision is put into the class in transformers, and so into the reference as well.",
        modelled_on="packages of kernels that replace methods of transformers' classes when they are switched on",
        caught_by="prefill_bit_equal",
        system=systems.ReplacesForAll,
    ),
)

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _FAULTS}
