"""Hooks that let a module compute with weights that pass through a ring buffer, and take them out again.

Installing binds every parameter to its place on the device, once: places are fixed by the plan. What
remains for the hooks is order: before a module runs, wait for its copy; after it, let its bytes be
overwritten. Removing puts the very parameter and buffer objects back that were there before, with the
same bytes, strides and device.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.engine.binding import bind_buffers, bind_parameters
from djinn_checks.engine.host_weights import order_by_file
from djinn_checks.engine.plan import Plan, Planner
from djinn_checks.engine.residency import plan_fewest_bytes
from djinn_checks.engine.ring_buffer import WeightRingBuffer
from djinn_checks.engine.segments import Cut, cut_model
from djinn_checks.engine.weight_stream import WeightStream
from djinn_checks.errors import ConcurrentForwardError, EngineError, HooksError


class RingBufferHooks:
    """What `install_ring_buffer_hooks` put into a module. `remove` takes it out."""

    def __init__(self, model: nn.Module, ring: WeightRingBuffer, undo: list[Callable[[], Any]]) -> None:
        self.model = model
        self.ring = ring
        self._undo = undo

    def remove(self) -> None:
        """Restore the module bit for bit and free the ring's memory.

        Raises:
            HooksError: they were removed before.
            CodecError: encoded weights changed in host memory; all others have been restored.
        """
        if not self._undo:
            raise HooksError("these hooks were removed before; install new ones to stream the model again")
        failed: EngineError | None = None
        while self._undo:
            try:
                self._undo.pop()()
            except EngineError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def __enter__(self) -> RingBufferHooks:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._undo:
            self.remove()


def install_ring_buffer_hooks(
    model: nn.Module,
    ring: WeightRingBuffer,
    model_id: str,
    *,
    plan: Plan | Planner | None = None,
    cut: Cut | None = None,
) -> RingBufferHooks:
    """Make `model` run on weights that stream through `ring`.

    If the module itself was registered, its weights move into the ring's memory and their own storage is
    freed until the hooks are removed. If a mapping was, the module may hold anything, or be on `meta`.
    It works under `generate()` and any order of prompts, for inference only and one forward at a time.

    Args:
        model: a causal LM of Hugging Face, or any module with an `nn.ModuleList` of blocks.
        model_id: a name given to `ring.register_model` before.
        plan: a residency plan for this module within the ring's capacity, or what makes one once the bytes are known
            that travel; None keeps as much as fits.
        cut: the one that the plan is for; None cuts the module in the usual order.

    Raises:
        HooksError: the ring streams a model already.
        CapacityError: the ring is smaller than its two largest layers and what must stay resident.
        EngineError: nothing is registered under `model_id`, or its weights do not fit the module; or a plan was made
            before it is known how many bytes a codec leaves.
    """
    if isinstance(plan, Plan) and ring.codec is not None:
        raise EngineError(
            f"a plan was given, and codec {ring.codec.name!r} decides how many bytes travel; give what makes a plan "
            "(a function of the cut and the bytes on the wire of each segment), or none"
        )
    source = ring.source(model_id)
    weights = dict(source.named_parameters(remove_duplicate=False)) if isinstance(source, nn.Module) else source
    cut = cut or cut_model(model, order=order_by_file(weights))
    with torch.no_grad():
        stream = ring.attach(model_id, cut, _planner(plan, ring.capacity_bytes), weights)
    undo: list[Callable[[], Any]] = [ring.detach]
    hooks = RingBufferHooks(model, ring, undo)
    try:
        bind_parameters(model, cut, stream.place, undo, homes=stream.plain if source is model else None)
        bind_buffers(model, ring.device, undo)
        _guard_forwards(model, undo)
        for use, (point, _) in enumerate(stream.plan.uses):
            module = model.get_submodule(cut.points[point].name)
            before = module.register_forward_pre_hook(partial(_acquire, stream, use), prepend=True)
            after = module.register_forward_hook(partial(_release, stream, use))
            undo += [before.remove, after.remove]
    except BaseException:
        hooks.remove()
        raise
    return hooks


def _planner(plan: Plan | Planner | None, capacity_bytes: int) -> Planner:
    if plan is None:
        return lambda cut, wire_bytes: plan_fewest_bytes(cut, capacity_bytes, wire_bytes=wire_bytes)
    if isinstance(plan, Plan):
        return lambda cut, wire_bytes: plan
    return plan


def _acquire(stream: WeightStream, use: int, module: nn.Module, args: Any) -> None:
    stream.acquire(use)


def _release(stream: WeightStream, use: int, module: nn.Module, args: Any, output: Any) -> None:
    stream.release(use)


def _guard_forwards(model: nn.Module, undo: list[Callable[[], Any]]) -> None:
    """Refuse a second thread inside the model, and gradients: the weights are gone when they are needed."""
    running = threading.Lock()
    owner: list[int] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not running.acquire(blocking=False):
            raise ConcurrentForwardError(
                f"a forward of this streamed model is running in thread {owner}; "
                "a ring buffer serves one forward at a time: use a lock, or one ring per thread"
            )
        owner[:] = [threading.get_ident()]
        inputs = (*args, *kwargs.values())
        if torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in inputs):
            raise EngineError("a streamed model is for inference: an input requires a gradient; use torch.no_grad()")

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if owner == [threading.get_ident()]:
            owner.clear()
            running.release()

    undo.append(model.register_forward_pre_hook(enter, prepend=True, with_kwargs=True).remove)
    undo.append(model.register_forward_hook(leave, always_call=True).remove)
