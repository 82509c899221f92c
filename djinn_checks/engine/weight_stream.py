"""One model's weights on their way through device memory, from the first copy until it is closed.

One block of device memory holds the resident segments and, after them, the ring. The cycle of copies is
fixed by the residency plan. Two counters run along it: copies issued and segments used. A copy is issued as
soon as the segment whose bytes it overwrites has been used; a segment is waited for only by the computation
that needs it. On CUDA both orders are events between two streams and the host waits for neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from djinn_checks.engine.host_memory import HostArena
from djinn_checks.engine.link import Link
from djinn_checks.engine.residency import Plan
from djinn_checks.engine.segments import Cut, Segment
from djinn_checks.errors import CopyError, EngineError

Weights = Mapping[str, Tensor]


@dataclass(kw_only=True)
class Claimed:
    """What has been given to the link, by all streams of one ring buffer."""

    nbytes: int = 0
    copies: int = 0


class WeightStream:
    """Streams the segments of one model. It exists for as long as the model's hooks are installed.

    Attributes:
        model_id: the name under which the model was registered.
        link: what the copies are given to.
    """

    def __init__(
        self,
        model_id: str,
        cut: Cut,
        plan: Plan,
        weights: Weights,
        *,
        device: torch.device,
        link_factory: Callable[[torch.device, int], Link],
        claimed: Claimed,
    ) -> None:
        """Take the memory, read the weights into it and start the first copies.

        Args:
            link_factory: makes the link from (device, number of copies in the cycle).
            claimed: is counted up with each copy.

        Raises:
            EngineError: a weight is missing, has another shape or dtype, or memory cannot be had.
        """
        self.model_id, self.cut, self.plan = model_id, cut, plan
        self._to, self._claimed = device, claimed
        self._memory = torch.empty(plan.resident_bytes + plan.ring_bytes, dtype=torch.uint8, device=device)
        self._arena = HostArena(plan.host_bytes, pinned=device.type == "cuda")
        self._host, self._device = self._divide()
        for index, segment in enumerate(cut.segments):
            _read(segment, self.home(index), weights)
        self.link = link_factory(device, max(1, len(plan.loads)))
        self._failed: dict[int, Exception] = {}
        self._use = 0  # next use to come, counted from the start
        self._load = 0  # the load that serves it
        self._issued = 0  # copies given to the link
        self._issue()

    def close(self) -> None:
        """Finish the copies under way, and let go of the device and host memory."""
        self.link.close()
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

        Uses come in the plan's order. If some are left out (a forward that raised, a part of the model called
        alone), the stream goes on to the use asked for, and the copies in between were made in vain.

        Raises:
            CopyError: the copy failed.
        """
        while self._use % len(self.plan.uses) != use:
            self._finish_use()
        slot = self._load % len(self.plan.loads)
        try:
            if slot in self._failed:
                raise self._failed.pop(slot)
            self.link.wait(slot)
        except Exception as error:
            segment = self.cut.segments[self.plan.loads[slot].segment]
            raise CopyError(
                f"copy of {segment.name!r} ({segment.nbytes:,} bytes) to {self._to} failed: {error}"
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
        self.link.mark(self._load % len(self.plan.loads))
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
            self.link.copy(slot, self._device[load.segment], self._host[load.segment], after=after)
        except Exception as error:  # it belongs to the forward that needs these bytes, not to this one
            self._failed[slot] = error
            return
        self._claimed.nbytes += load.nbytes
        self._claimed.copies += 1


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
