"""A ring buffer of model weights on the device, fed from host memory ahead of the computation.

One block of device memory of `capacity_bytes` holds the resident segments and, after them, the ring. The
cycle of copies is fixed by the residency plan. Two counters run along it: copies issued and segments
used. A copy is issued as soon as the segment whose bytes it overwrites has been used; a segment is
waited for only by the computation that needs it. On CUDA both orders are events between two streams and
the host waits for neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.engine.host_memory import HostArena
from djinn_checks.engine.link import Link, open_link
from djinn_checks.engine.residency import Plan
from djinn_checks.engine.segments import Cut, Segment
from djinn_checks.errors import CapacityError, CopyError, EngineError, HooksError

Weights = Mapping[str, Tensor]


class WeightRingBuffer:
    """Device memory through which a model larger than it is streamed.

    >>> ring = WeightRingBuffer(2 * 10**9, torch.device("cuda"))
    >>> ring.register_model("llama", model)
    >>> hooks = install_ring_buffer_hooks(model, ring, "llama")
    >>> model.generate(...)
    >>> hooks.remove()

    It serves one model at a time. Claims about itself are in `get_stats`; whether they are true is for
    instruments outside the engine to say.
    """

    def __init__(
        self,
        capacity_bytes: int,
        device: torch.device | str,
        *,
        link_factory: Callable[[torch.device, int], Link] = open_link,
    ) -> None:
        """Describe the buffer; its memory is taken when a model's hooks are installed.

        Args:
            capacity_bytes: device memory for weights, resident segments and ring together.
            link_factory: makes the link from (device, number of copies in the cycle).

        Raises:
            CapacityError: `capacity_bytes` is not positive.
        """
        if capacity_bytes <= 0:
            raise CapacityError(f"capacity_bytes: expected a positive number of bytes, got {capacity_bytes}")
        self.capacity_bytes = capacity_bytes
        self.device = torch.device(device)
        self._link_factory = link_factory
        self._sources: dict[str, nn.Module | Weights] = {}
        self._attached: str | None = None
        self._bytes_transferred = 0
        self._copies = 0

    def register_model(self, model_id: str, model_or_state_dict: nn.Module | Weights) -> None:
        """Name the source of a model's weights.

        Nothing is read yet: how the weights are packed follows from the module, which
        `install_ring_buffer_hooks` brings. A mapping may be lazy; each weight is read from it once.

        Raises:
            HooksError: a model of that name is being streamed.
        """
        if self._attached == model_id:
            raise HooksError(f"model {model_id!r} is being streamed; remove its hooks before registering it again")
        self._sources[model_id] = model_or_state_dict

    def source(self, model_id: str) -> nn.Module | Weights:
        """Return what was registered under `model_id`.

        Raises:
            EngineError: nothing was.
        """
        if model_id not in self._sources:
            known = ", ".join(map(repr, self._sources)) or "none"
            raise EngineError(f"model {model_id!r} is not registered (registered: {known}); call register_model first")
        return self._sources[model_id]

    def attach(self, model_id: str, cut: Cut, plan: Plan, weights: Weights) -> None:
        """Take the memory, read the weights into it and start the first copies.

        Raises:
            HooksError: the ring serves another model already.
            EngineError: a weight is missing, has another shape or dtype, or memory cannot be had.
        """
        if self._attached is not None:
            raise HooksError(f"the ring already streams {self._attached!r}; remove those hooks first")
        self.cut, self.plan = cut, plan
        self._memory = torch.empty(plan.resident_bytes + plan.ring_bytes, dtype=torch.uint8, device=self.device)
        self._arena = HostArena(plan.host_bytes, pinned=self.device.type == "cuda")
        self._host, self._device = self._divide()
        for index, segment in enumerate(cut.segments):
            _read(segment, self.home(index), weights)
        self._link = self._link_factory(self.device, max(1, len(plan.loads)))
        self._attached = model_id
        self._failed: dict[int, Exception] = {}
        self._use = 0  # next use to come, counted from the start
        self._load = 0  # the load that serves it
        self._issued = 0  # copies given to the link
        self._issue()

    def detach(self) -> None:
        """Let go of the device and host memory. Detaching twice does nothing."""
        if self._attached is None:
            return
        self._link.close()
        self._attached = None
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._host, self._device = {}, {}
        self._arena.close()

    def _divide(self) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Return the bytes of each streamed segment in host memory, and of every segment on the device."""
        host: dict[int, Tensor] = {}
        device: dict[int, Tensor] = {}
        start = 0
        for load in self.plan.loads:
            if load.segment not in host:
                host[load.segment] = self._arena.buffer[start : start + load.nbytes]
                device[load.segment] = self._memory[self.plan.resident_bytes + load.offset :][: load.nbytes]
                start += load.nbytes
        for segment, offset in zip(self.plan.resident, self.plan.resident_offsets, strict=True):
            device[segment] = self._memory[offset : offset + self.cut.segments[segment].nbytes]
        return host, device

    def place(self, segment: int) -> Tensor:
        """Return the device bytes where a segment is found when it is used (1-d uint8)."""
        return self._device[segment]

    def home(self, segment: int) -> Tensor:
        """Return the bytes that a segment is kept in: on the device if resident, in host memory if not."""
        return self._host.get(segment, self._device[segment])

    def acquire(self, use: int) -> None:
        """Order the computation that follows behind the copy that use `use` of the plan needs.

        Uses come in the plan's order. If one is left out (a forward that raised, a part of the model
        called alone), the ring goes on to the asked one, and what lies between is copied in vain.

        Raises:
            CopyError: the copy failed.
        """
        while self._use % len(self.plan.uses) != use:
            self._finish_use()
        slot = self._load % len(self.plan.loads)
        try:
            if slot in self._failed:
                raise self._failed.pop(slot)
            self._link.wait(slot)
        except Exception as error:
            segment = self.cut.segments[self.plan.loads[slot].segment]
            raise CopyError(
                f"copy of {segment.name!r} ({segment.nbytes:,} bytes) to {self.device} failed: {error}"
            ) from error

    def release(self, use: int) -> None:
        """Say that the computation of `use` is enqueued: its bytes may be overwritten behind it."""
        if self._use % len(self.plan.uses) == use:
            self._finish_use()

    def _finish_use(self) -> None:
        uses = self.plan.uses
        this, following = uses[self._use % len(uses)][1], uses[(self._use + 1) % len(uses)][1]
        self._use += 1
        if this == following:
            return  # the same copy serves the next use too
        self._link.mark(self._load % len(self.plan.loads))
        self._load += 1
        self._issue()

    def _issue(self) -> None:
        """Give the link every copy whose place is free.

        That includes the copy of the current load, since all loads before it have been used.
        """
        loads = self.plan.loads
        while loads and self._issued < self._load + len(loads):
            blocker = self._issued - loads[self._issued % len(loads)].blocker_distance
            if blocker >= self._load:
                return
            self._copy(self._issued % len(loads), blocker)
            self._issued += 1

    def _copy(self, slot: int, blocker: int) -> None:
        load = self.plan.loads[slot]
        after = blocker % len(self.plan.loads) if blocker >= 0 else None
        self._failed.pop(slot, None)
        try:
            self._link.copy(slot, self._device[load.segment], self._host[load.segment], after=after)
        except Exception as error:  # it belongs to the forward that needs these bytes, not to this one
            self._failed[slot] = error
            return
        self._bytes_transferred += load.nbytes
        self._copies += 1

    @property
    def link(self) -> Link:
        """The link in use. Only between attach and detach."""
        return self._link

    def get_stats(self) -> dict[str, Any]:
        """Return what the engine claims: bytes and copies given to the link, and the plan's prediction."""
        planned = self.plan.bytes_per_pass if self._attached is not None else None
        return {
            "bytes_transferred": self._bytes_transferred,
            "copies": self._copies,
            "planned_bytes_per_pass": planned,
            "capacity_bytes": self.capacity_bytes,
        }


def _read(segment: Segment, home: Tensor, weights: Weights) -> None:
    for tensor in segment.tensors:
        name = next((name for name in tensor.names if name in weights), None)
        if name is None:
            raise EngineError(f"weight {tensor.names[0]!r} is not among the registered weights")
        value = weights[name]
        if value.shape != tensor.shape or value.dtype != tensor.dtype:
            raise EngineError(
                f"weight {name!r}: the module has {tuple(tensor.shape)} {tensor.dtype}, "
                f"the registered weights have {tuple(value.shape)} {value.dtype}"
            )
        tensor.view(home).copy_(value)
