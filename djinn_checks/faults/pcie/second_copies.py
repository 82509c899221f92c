"""Systems whose bytes on a real link are right and whose weights lie on the device all the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from djinn_checks.faults.streaming import HooksDoNothing
from djinn_checks.systems.ring import RingSystem
from djinn_checks.units import MIB

_AT_ONCE_BYTES = 256 * MIB


class MovesJunk(HooksDoNothing):
    """The model lies on the device, and before each forward as many junk bytes are copied as a plan would move."""

    def open(self) -> nn.Module:
        module = super().open()
        count = min(_AT_ONCE_BYTES, self.plan.bytes_per_pass)
        self._junk = torch.ones(count, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        self._place = torch.zeros(count, dtype=torch.uint8, device=self.device)
        module.register_forward_pre_hook(self._move)
        return module

    def _move(self, *_: Any) -> None:
        left = self.plan.bytes_per_pass
        while left > 0:
            count = min(left, self._junk.numel())
            self._place[:count].copy_(self._junk[:count], non_blocking=True)
            left -= count


class KeepsSecondCopy(RingSystem):
    """Streams as it should, and has room on the device for all that it streams a second time."""

    def open(self) -> nn.Module:
        module = super().open()
        self._copy = torch.zeros(self.plan.bytes_per_pass, dtype=torch.uint8, device=self.device)
        return module
