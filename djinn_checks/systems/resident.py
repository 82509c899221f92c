"""Plain PyTorch with all weights on the device: the reference, and a system that streams nothing."""

from __future__ import annotations

from torch import nn

from djinn_checks.systems.base import System


class ResidentSystem(System):
    """Ignores the budget. Its logits are right and its streaming is none, so the checks must FAIL it."""

    name = "resident"
    _module: nn.Module | None = None

    def open(self) -> nn.Module:
        self._module = self.model.resident(self.device)
        return self._module

    def predicted_bytes_per_pass(self) -> int | None:
        return 0

    def claimed_bytes(self) -> int | None:
        return 0

    def close(self) -> None:
        self._module = None
