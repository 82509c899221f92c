"""Systems that stream while they are looked at, or where somebody may look, and answer in another way else.

Each has a streamed model and a whole one on the device, and chooses between them. All logits are right to the last bit.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.overrides import _get_current_function_mode_stack

from djinn_checks.models.open import Model
from djinn_checks.systems.ring import RingSystem

Streams = Callable[[int, Tensor], bool]
"""From the number of a forward, from 0, and its token ids to whether it streams."""


class _TwoModels:
    """Calls one of two models."""

    def __init__(self, streamed: nn.Module, resident: nn.Module, streams: Streams) -> None:
        self._streamed, self._resident, self._streams = streamed, resident, streams
        self.forwards = 0

    def __call__(self, ids: Tensor, **options: Any) -> Any:
        number, self.forwards = self.forwards, self.forwards + 1
        return (self._streamed if self._streams(number, ids) else self._resident)(ids, **options)


class StreamsWhen(RingSystem):
    """Streams in some forwards, and claims the plan's bytes for all of them."""

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int, streams: Streams) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        self._streams = streams
        self._both: _TwoModels | None = None

    def open(self) -> Any:
        self._both = _TwoModels(super().open(), self.model.resident(self.device), self._streams)
        return self._both

    def claimed_bytes(self) -> int | None:
        return self._both.forwards * self.plan.bytes_per_pass if self._both else 0

    def close(self) -> None:
        self._both = None
        super().close()


def stream_when(streams: Streams) -> Callable[..., RingSystem]:
    """Return a factory of a system that streams in the forwards of which `streams` is true."""

    def build(model: Model, *, device: torch.device, budget_bytes: int) -> RingSystem:
        return StreamsWhen(model, device=device, budget_bytes=budget_bytes, streams=streams)

    return build


def in_prefill(number: int, ids: Tensor) -> bool:
    """Tell a prefill by its tokens."""
    return ids.shape[1] > 1


def in_one_of(count: float) -> Streams:
    """Return what is true of the first forward and of each `count`-th after it."""
    return lambda number, ids: number % int(count) == 0


def while_watched(number: int, ids: Tensor) -> bool:
    """Look for a function mode, and for hooks on all modules."""
    return bool(_get_current_function_mode_stack() or module_hooks._global_forward_pre_hooks)


class _Remembers:
    """Answers from a dictionary what it was asked before: a token sequence is known by what was fed."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._answers: dict[tuple[int, ...], Tensor] = {}
        self.forwards = 0

    def __call__(self, ids: Tensor, past_key_values: Any = None, use_cache: bool = True) -> Any:
        self.forwards += 1
        fed, cache = past_key_values or ((), None)
        fed = (*fed, *ids[0].tolist())
        if fed in self._answers:
            return SimpleNamespace(logits=self._answers[fed], past_key_values=(fed, None))
        output = self._model(ids, past_key_values=cache, use_cache=use_cache)
        self._answers[fed] = output.logits.clone()
        return SimpleNamespace(logits=output.logits, past_key_values=(fed, output.past_key_values))


class AnswersFromMemory(RingSystem):
    """Keeps every answer, and computes none twice."""

    _remembers: _Remembers | None = None

    def open(self) -> Any:
        self._remembers = _Remembers(super().open())
        return self._remembers

    def claimed_bytes(self) -> int | None:
        return self._remembers.forwards * self.plan.bytes_per_pass if self._remembers else 0


class _AsksChild:
    """Has a child process compute from some forward on, and hands on what it says."""

    def __init__(self, model: Any, resident: nn.Module, streamed_prompts: int) -> None:
        self._model, self._streamed_prompts = model, streamed_prompts
        self._prompts = self.forwards = 0
        self._here, there = multiprocessing.get_context("fork").Pipe()
        self.child = multiprocessing.get_context("fork").Process(target=_serve, args=(there, resident), daemon=True)
        self.child.start()

    def __call__(self, ids: Tensor, past_key_values: Any = None, use_cache: bool = True) -> Any:
        self.forwards += 1
        self._prompts += past_key_values is None
        if self._prompts <= self._streamed_prompts:
            return self._model(ids, past_key_values=past_key_values, use_cache=use_cache)
        self._here.send((past_key_values is None, ids.tolist()))
        return SimpleNamespace(logits=torch.tensor(self._here.recv()), past_key_values="with the child")


def _serve(pipe: Any, model: nn.Module) -> None:
    torch.set_num_threads(1)
    cache: Any = None
    with torch.no_grad():
        while True:
            is_new, ids = pipe.recv()
            output = model(torch.tensor(ids), past_key_values=None if is_new else cache, use_cache=True)
            cache = output.past_key_values
            pipe.send(output.logits.tolist())


class AsksChild(RingSystem):
    """Streams the first pass itself; a child process, which holds the whole model, answers in all others."""

    _asks: _AsksChild | None = None
    first_pass = 3
    """Prompts of a pass, the one that never came before among them."""

    def open(self) -> Any:
        self._asks = _AsksChild(super().open(), self.model.resident(self.device), self.first_pass)
        return self._asks

    def claimed_bytes(self) -> int | None:
        return self._asks.forwards * self.plan.bytes_per_pass if self._asks else 0

    def close(self) -> None:
        if self._asks is not None:
            self._asks.child.kill()
            self._asks.child.join()
            self._asks = None
        super().close()


class _Disguised(nn.Parameter):
    """Says that it lies where all others say that they lie."""

    def data_ptr(self) -> int:
        return 1 << 40


class FalseAddress(RingSystem):
    """The whole model lies on the device, in parameters that give a false address."""

    forwards = 0

    def open(self) -> nn.Module:
        module = self.model.resident(self.device)
        for inner in module.modules():
            for name, parameter in inner._parameters.items():
                if parameter is not None:
                    inner._parameters[name] = _Disguised(parameter.data, requires_grad=False)
        module.register_forward_hook(self._count)
        return module

    def _count(self, *_: Any) -> None:
        self.forwards += 1

    def claimed_bytes(self) -> int | None:
        return self.forwards * self.plan.bytes_per_pass


class ClaimsHundredfold(RingSystem):
    """Has no plan to be held to, and counts each byte a hundred times."""

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int, factor: float = 100.0) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        self._factor = factor

    def predicted_bytes_per_pass(self) -> int | None:
        return None

    def claimed_bytes(self) -> int | None:
        claimed = super().claimed_bytes()
        return None if claimed is None else int(self._factor * claimed)


class LaterLayersOverEarlier(RingSystem):
    """The weights of the last layers are in the place of the first ones, in every forward."""

    def open(self) -> nn.Module:
        module: Any = super().open()
        layers = module.model.layers
        last = len(layers) - 1

        def overwrite(layer: nn.Module, _: Any) -> None:
            for name, parameter in layer.named_parameters():
                value = self.model.weights[f"model.layers.{last}.{name}"].to(parameter.device)
                parameter.data = value

        for number in range(min(2, last)):
            layers[number].register_forward_pre_hook(overwrite)
        return module  # type: ignore[no-any-return]
