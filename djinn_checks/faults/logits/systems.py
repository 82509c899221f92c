"""Systems that stream weights and get something wrong that no copy is to blame for."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.models.open import Model
from djinn_checks.systems.ring import RingSystem


class ReusesSlotsEarly(RingSystem):
    """A copy starts one layer before its place is free."""

    def open(self) -> nn.Module:
        loads = tuple(dataclasses.replace(load, blocker_distance=load.blocker_distance + 1) for load in self.plan.loads)
        self.plan = dataclasses.replace(self.plan, loads=loads)
        self._resident_blocks = 0  # keeps this plan where another one would be made at opening
        return super().open()


def cut_mantissa(value: Tensor, bits: int) -> Tensor:
    """Return 32-bit floats without their lowest `bits` bits; 16 make them what a truncation to bfloat16 leaves."""
    return (value.view(torch.int32) >> bits << bits).view(value.dtype)


class _Rounded(Mapping[str, Tensor]):
    """Weights that went through a shorter data type on their way."""

    def __init__(self, weights: Mapping[str, Tensor], shorten: Callable[[Tensor], Tensor]) -> None:
        self._weights, self._shorten = weights, shorten

    def __getitem__(self, name: str) -> Tensor:
        return self._shorten(self._weights[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


class RoundsWeights(RingSystem):
    """Weights are stored in bfloat16 and widened again."""

    def shorten(self, value: Tensor) -> Tensor:
        return value.to(torch.bfloat16).to(value.dtype)

    def open(self) -> nn.Module:
        self.model = dataclasses.replace(self.model, weights=_Rounded(self.model.weights, self.shorten))
        return super().open()


class CutsWeights(RoundsWeights):
    """Weights lose the lowest bits of their mantissas."""

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int, bits: int = 16) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        self._bits = bits

    def shorten(self, value: Tensor) -> Tensor:
        return cut_mantissa(value, self._bits)


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
    """A head that was tied to the embedding keeps a copy of its own, from before the weights changed.

    `change` is relative, of one token's row.
    """

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int, change: float = 1e-3) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        self._change = change

    def open(self) -> nn.Module:
        module: Any = super().open()
        name = "model.embed_tokens.weight"
        old = self.model.weights[name].to(self.device).clone()
        old[7] *= 1 + self._change
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
        module.lm_head.register_forward_hook(lambda _, __, out: self.shorten(out))
        return module  # type: ignore[no-any-return]

    def shorten(self, logits: Tensor) -> Tensor:
        return logits.to(torch.bfloat16).to(logits.dtype)


class CutHead(ShortHead):
    """The head's logits lose the lowest bits of their mantissas."""

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int, bits: int = 16) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        self._bits = bits

    def shorten(self, logits: Tensor) -> Tensor:
        return cut_mantissa(logits.float(), self._bits).to(logits.dtype)


class RepeatsItself(RingSystem):
    """One forward in `every` answers with the logits of an earlier one of the same shape."""

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int, every: int = 7) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        self._every = every

    def open(self) -> nn.Module:
        module: Any = super().open()
        calls, earlier = itertools.count(1), dict[torch.Size, Tensor]()

        def repeat(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            old = earlier.setdefault(output.shape, output.clone())
            return old if next(calls) % self._every == 0 else output

        module.lm_head.register_forward_hook(repeat)
        return module  # type: ignore[no-any-return]


class ReplacesForAll(RingSystem):
    """Puts a norm of less precision into the class of the model's norms, for the whole process, as it is built."""

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        norm: Any = model.skeleton().model.norm
        self._kind, self._forward = type(norm), type(norm).forward

        def forward(module: nn.Module, hidden: Tensor) -> Tensor:
            short = self._forward(module, hidden.to(torch.bfloat16))
            return short.to(hidden.dtype)  # type: ignore[no-any-return]

        self._kind.forward = forward

    def close(self) -> None:
        self._kind.forward = self._forward
        super().close()
