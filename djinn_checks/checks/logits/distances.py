"""How far apart two logits are: bits, units in the last place, and histograms that lose no element."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from djinn_checks.measurements.logits import DifferenceCounts

_INTEGERS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}

_LOG10_LOW, _LOG10_HIGH, _BINS_PER_DECADE = -12, 4, 2
LOG10_EDGES = tuple(
    _LOG10_LOW + step / _BINS_PER_DECADE for step in range((_LOG10_HIGH - _LOG10_LOW) * _BINS_PER_DECADE + 1)
)
"""Edges of the bins of |difference|, as log10 of logits."""

_EXACT_ULPS = 4096  # smaller distances have a count each, larger ones one per power of two


def bit_view(logits: Tensor) -> Tensor:
    """Return the same memory as integers of the same width, so that NaN equals NaN of the same bits.

    Raises:
        ValueError: the dtype is not float32, float16 or bfloat16.
    """
    if logits.dtype not in _INTEGERS:
        raise ValueError(f"logits: expected float32, float16 or bfloat16, got {logits.dtype}; convert them")
    return logits.view(_INTEGERS[logits.dtype])


def ordered_integers(logits: Tensor) -> Tensor:
    """Return int64 numbers in the order of the values: neighbouring floats differ by 1, -0 and +0 by 0.

    IEEE 754 numbers are sign and magnitude, and magnitudes are ordered as integers; so the magnitude, with
    the sign as an integer's sign. NaN lie beyond the infinities.
    """
    bits = bit_view(logits)
    magnitude = bits & torch.iinfo(bits.dtype).max
    return torch.where(bits >= 0, magnitude, -magnitude).to(torch.int64)


class UlpHistogram:
    """Counts of distances in units in the last place (ULP); NaN have none and are left out."""

    def __init__(self) -> None:
        self._exact = torch.zeros(_EXACT_ULPS, dtype=torch.int64)
        self._powers = torch.zeros(64, dtype=torch.int64)
        self.max = 0

    def add_equal(self, count: int) -> None:
        """Count `count` pairs at distance 0."""
        self._exact[0] += count

    def add(self, reference: Tensor, system: Tensor) -> None:
        """Count pairs of logits, 1-d, of one dtype."""
        number = ~(reference.isnan() | system.isnan())
        distance = (ordered_integers(reference[number]) - ordered_integers(system[number])).abs()
        if distance.numel() == 0:
            return
        self.max = max(self.max, int(distance.max()))
        near = distance < _EXACT_ULPS
        self._exact += torch.bincount(distance[near], minlength=_EXACT_ULPS).cpu()
        powers = distance[~near].double().log2().floor().long()
        self._powers += torch.bincount(powers, minlength=64).cpu()

    def percentile(self, percent: float) -> int:
        """Return the nearest-rank percentile; from 4096 ULP on, the upper end of its power of two."""
        counts = torch.cat([self._exact, self._powers]).cumsum(0)
        rank = max(1, math.ceil(percent / 100 * int(counts[-1])))
        place = int(torch.searchsorted(counts, rank))
        return place if place < _EXACT_ULPS else min(self.max, 2 ** (place - _EXACT_ULPS + 1) - 1)


class DifferenceHistogram:
    """Counts of logit differences (system - reference): exact zeros, and signed bins that are even in log10.

    Differences beyond the outer edges, infinite ones included, count in the outer bins, so that zero,
    negative, positive and nan together are the number of elements.
    """

    def __init__(self) -> None:
        self._edges = torch.tensor([10.0**edge for edge in LOG10_EDGES[1:-1]], dtype=torch.float64)
        self._zero = 0
        self._nan = 0
        self._negative = torch.zeros(len(LOG10_EDGES) - 1, dtype=torch.int64)
        self._positive = torch.zeros_like(self._negative)

    def add_zeros(self, count: int) -> None:
        """Count `count` differences that are exactly zero."""
        self._zero += count

    def add(self, differences: Tensor) -> None:
        """Count 1-d float64 differences."""
        self._zero += int((differences == 0).sum())
        self._nan += int(differences.isnan().sum())
        self._positive += self._count(differences[differences > 0])
        self._negative += self._count(-differences[differences < 0])

    def _count(self, sizes: Tensor) -> Tensor:
        bins = torch.bucketize(sizes, self._edges.to(sizes.device), right=True)
        return torch.bincount(bins, minlength=len(LOG10_EDGES) - 1).cpu()

    def to_dict(self) -> DifferenceCounts:
        """Return zero, nan (counts), log10_edges (n + 1), negative and positive (n counts each)."""
        return {
            "zero": self._zero,
            "log10_edges": list(LOG10_EDGES),
            "negative": self._negative.tolist(),
            "positive": self._positive.tolist(),
            "nan": self._nan,
        }
