"""The fewest bytes that a model's weights can travel in, as `entropy.py` measures it or a recorded run says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EntropyFloor:
    """The fewest bytes for a whole model."""

    weight_bytes: int
    least_bytes: float
    error_bytes: float
    """How far `least_bytes` may be off: the tensors' errors added up."""
    share_of_field: dict[str, float]
    """Entropy of sign, exponent and mantissa as shares of the weight bytes."""

    @property
    def certain_bytes(self) -> float:
        """The floor with its error taken off: less is possible for no coder of single weights."""
        return max(0.0, self.least_bytes - self.error_bytes)
