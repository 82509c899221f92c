"""Faults of the logits check: what a system that streams weights gets wrong."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.checks.logits import check_logits
from djinn_checks.faults.base import Fault
from djinn_checks.faults.copies import Spoil, UnawaitedLink, open_slow_link, spoil_copies, stream_over
from djinn_checks.outcome import Outcome
from djinn_checks.params import LogitsParams
from djinn_checks.systems.base import System
from djinn_checks.systems.ring import RingSystem

DTYPE = torch.float32
_MANTISSA_BITS = 23
_SLOT = 1
"""The copy of the cycle that faults bite: not the first, which is under way before anything runs."""
_WORD = 100
"""An element in the midst of a segment's first matrix."""

PROMPTS = [
    "The link is full for as long as the model runs, and the counters know nothing of the model.",
    "A ring that is smaller than the model moves every byte of it in every pass.",
]


def run_logits(factory: Callable[..., System], *, tied: bool = False) -> Callable[[torch.device], Outcome]:
    """Return a function that runs the logits check on a tiny model, seconds a run."""

    def run(device: torch.device) -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            params = LogitsParams.create(
                model=_tied_shape(Path(folder)) if tied else "random:tiny",
                device=str(device),
                dtype="float32",
                prompts=PROMPTS,
                decode_tokens=3,
                budget_fraction=0.7 if tied else 0.5,
            )
            return check_logits(params, system_factory=factory)

    return run


def _tied_shape(folder: Path) -> str:
    """Return a tiny shape whose head is its embedding."""
    values = json.loads((resources.files("djinn_checks") / "shapes" / "tiny.json").read_text())
    path = folder / "config.json"
    path.write_text(json.dumps(values | {"tie_word_embeddings": True}))
    return f"random:{path}"


# What goes wrong with copies


def drop_every(n: int) -> Callable[[], Spoil]:
    """Drop one copy in n, the last one of each n."""

    def spoil(number: int, slot: int, destination: Tensor, source: Tensor) -> tuple[Tensor, Tensor] | None:
        return None if number % n == n - 1 else (destination, source)

    return lambda: spoil


def drop_second_half() -> Spoil:
    def spoil(number: int, slot: int, destination: Tensor, source: Tensor) -> tuple[Tensor, Tensor] | None:
        half = source.numel() // 2 if slot == _SLOT else source.numel()
        return destination[:half], source[:half]

    return spoil


def swap_layers() -> Spoil:
    """Give two layers of one size each other's weights, from the second cycle on."""
    seen: dict[int, Tensor] = {}

    def spoil(number: int, slot: int, destination: Tensor, source: Tensor) -> tuple[Tensor, Tensor] | None:
        seen[slot] = source
        pair = {_SLOT: _SLOT + 1, _SLOT + 1: _SLOT}
        other = seen.get(pair.get(slot, slot), source)
        return destination, other if other.numel() == source.numel() else source

    return spoil


def keep_stale() -> Spoil:
    """Copy one slot once and never again: what its place holds is of another layer, or of the pass before."""
    seen: set[int] = set()

    def spoil(number: int, slot: int, destination: Tensor, source: Tensor) -> tuple[Tensor, Tensor] | None:
        if slot == _SLOT and slot in seen:
            return None
        seen.add(slot)
        return destination, source

    return spoil


def zero_row() -> Spoil:
    def spoil(number: int, slot: int, destination: Tensor, source: Tensor) -> tuple[Tensor, Tensor] | None:
        if slot != _SLOT:
            return destination, source
        wrong = source.clone()
        wrong[: 64 * DTYPE.itemsize] = 0
        return destination, wrong

    return spoil


def flip_bit(bit: int) -> Callable[[], Spoil]:
    """Flip one bit of one weight; bit 0 is the lowest of the mantissa."""

    def spoil(number: int, slot: int, destination: Tensor, source: Tensor) -> tuple[Tensor, Tensor] | None:
        if slot != _SLOT:
            return destination, source
        wrong = source.clone()
        words = wrong.view(torch.int32)
        words[_WORD] = words[_WORD] ^ (1 << bit)
        return destination, wrong

    return lambda: spoil


# What goes wrong with systems


class HooksDoNothing(RingSystem):
    """The model lies on the device, and the plan's bytes are claimed for every forward."""

    forwards = 0

    def open(self) -> nn.Module:
        module = self.model.resident(self.device)
        module.register_forward_hook(self._count)
        return module

    def _count(self, *_: Any) -> None:
        self.forwards += 1

    def claimed_bytes(self) -> int | None:
        return self.forwards * self.plan.bytes_per_pass


class ReusesSlotsEarly(RingSystem):
    """A copy starts one layer before its place is free."""

    def open(self) -> nn.Module:
        loads = tuple(dataclasses.replace(load, blocker_distance=load.blocker_distance + 1) for load in self.plan.loads)
        self.plan = dataclasses.replace(self.plan, loads=loads)
        self._resident_blocks = 0  # keeps this plan where another one would be made at opening
        return super().open()


class _Rounded(Mapping[str, Tensor]):
    """Weights that went through bfloat16 on their way."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> Tensor:
        value = self._weights[name]
        return value.to(torch.bfloat16).to(value.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


class RoundsWeights(RingSystem):
    """Weights are stored in a shorter data type and widened again."""

    def open(self) -> nn.Module:
        self.model = dataclasses.replace(self.model, weights=_Rounded(self.model.weights))
        return super().open()


class RecomputesRotary(RingSystem):
    """The rotary table is computed again, by a formula that is the same on paper."""

    def open(self) -> nn.Module:
        module = super().open()
        for _, inner in module.named_modules():
            table = inner._buffers.get("inv_freq")
            if table is not None:
                places = torch.arange(len(table), dtype=torch.float32, device=table.device) / len(table)
                base = float(self.model.config.rope_parameters["rope_theta"])
                inner._buffers["inv_freq"] = torch.exp(-places * math.log(base)).to(table.dtype)
        return module


class StaleHead(RingSystem):
    """A head that was tied to the embedding keeps a copy of its own, from before the weights changed."""

    def open(self) -> nn.Module:
        module: Any = super().open()
        name = "model.embed_tokens.weight"
        old = self.model.weights[name].to(self.device).clone()
        old[7] *= 1.001
        module.lm_head._parameters["weight"] = nn.Parameter(old, requires_grad=False)
        return module  # type: ignore[no-any-return]


class ForgetsOnePosition(RingSystem):
    """Every decode step sees a KV cache without its newest position."""

    def open(self) -> nn.Module:
        module = super().open()

        def forget(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            cache = kwargs.get("past_key_values")
            if cache is not None:
                cache.crop(-1)

        module.register_forward_pre_hook(forget, with_kwargs=True, prepend=True)
        return module


class ShortHead(RingSystem):
    """The head answers in bfloat16."""

    def open(self) -> nn.Module:
        module: Any = super().open()
        module.lm_head.register_forward_hook(lambda _, __, out: out.to(torch.bfloat16).to(out.dtype))
        return module  # type: ignore[no-any-return]


class RepeatsItself(RingSystem):
    """Every seventh forward answers with the logits of an earlier one of the same shape."""

    def open(self) -> nn.Module:
        module: Any = super().open()
        calls, earlier = itertools.count(1), dict[torch.Size, Tensor]()

        def repeat(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            old = earlier.setdefault(output.shape, output.clone())
            return old if next(calls) % 7 == 0 else output

        module.lm_head.register_forward_hook(repeat)
        return module  # type: ignore[no-any-return]


def _fault(name: str, caught_by: str, factory: Callable[..., System], breaks: str, modelled_on: str,
           *, tied: bool = False, attempts: int = 1) -> Fault:  # fmt: skip
    run = run_logits(factory, tied=tied)
    return Fault(
        name=name, check="logits", breaks=breaks, modelled_on=modelled_on, caught_by=caught_by, run=run,
        attempts=attempts,
    )  # fmt: skip


_FAULTS = (
    _fault("hooks_do_nothing", "weights_streamed", HooksDoNothing,
           "The model is resident and the hooks move nothing; the planned bytes are claimed.",
           "Djinn's published weight hooks, whose bodies are empty"),
    _fault("copy_not_awaited", "weights_at_use",
           stream_over(lambda device, slots: UnawaitedLink(open_slow_link(device, slots))),
           "The computation does not wait for its copy.",
           "a ready event that is recorded and never waited for", attempts=5),
    _fault("slot_reused_early", "weights_at_use", ReusesSlotsEarly,
           "A copy overwrites a slot one layer before it was used.",
           "an off-by-one in a ring's free list"),
    _fault("copy_dropped_now_and_then", "weights_at_use", spoil_copies(drop_every(3)),
           "One copy in three is not made.",
           "a copy request that is lost when a queue is full"),
    _fault("second_half_dropped", "weights_at_use", spoil_copies(drop_second_half),
           "Only the first half of one layer arrives.",
           "a length that is cut to what is left at the end of a buffer"),
    _fault("layers_swapped", "weights_at_use", spoil_copies(swap_layers),
           "Two layers get each other's weights.",
           "an index that counts streamed layers where one of all layers was meant"),
    _fault("stale_slot", "weights_at_use", spoil_copies(keep_stale),
           "One slot is filled in the first pass and never again.",
           "a cache that takes a layer for present because it once was"),
    _fault("row_zeroed", "weights_at_use", spoil_copies(zero_row),
           "64 neighbouring weights of one layer arrive as zeros.",
           "a page that was not faulted in when it was copied"),
    _fault("bit_flipped_low", "weights_at_use", spoil_copies(flip_bit(0)),
           "The lowest mantissa bit of one weight is flipped.",
           "memory without error correction; the smallest dose there is"),
    _fault("bit_flipped_high", "weights_at_use", spoil_copies(flip_bit(_MANTISSA_BITS - 1)),
           "The highest mantissa bit of one weight is flipped.",
           "memory without error correction"),
    _fault("bit_flipped_exponent", "weights_at_use", spoil_copies(flip_bit(_MANTISSA_BITS + 2)),
           "An exponent bit of one weight is flipped.",
           "memory without error correction"),
    _fault("weights_rounded", "weights_at_use", RoundsWeights,
           "The weights are rounded to bfloat16 and widened again.",
           "a loader whose default data type differs from the checkpoint's"),
    _fault("rotary_recomputed", "prefill_bit_equal", RecomputesRotary,
           "The rotary table is recomputed by another formula.",
           "non-persistent buffers that are computed on another device than the reference's"),
    _fault("tied_head_stale", "weights_at_use", StaleHead,
           "A tied head is untied, and keeps old values in one row.",
           "engines that copy tied weights by name, twice", tied=True),
    _fault("cache_off_by_one", "decode_bit_equal", ForgetsOnePosition,
           "Decoding does not see the newest position of its KV cache.",
           "an off-by-one in the length of a restored cache"),
    _fault("head_in_short_type", "prefill_bit_equal", ShortHead,
           "The head's logits are rounded to bfloat16.",
           "mixed precision that was left on"),
    _fault("earlier_answer_repeated", "decode_bit_equal", RepeatsItself,
           "Every seventh forward returns the logits of an earlier one.",
           "an output buffer that a later call finds unfinished"),
)  # fmt: skip

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _FAULTS}
