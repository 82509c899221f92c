"""The fewest bytes that weights can be put in one by one without loss: their own order-0 entropy.

Why this is valid. A coder that looks at each weight by itself, as those that decode at the speed of a link do (Huffman,
ANS), needs on average at least the entropy of what it codes. A floating-point number is a sign, an exponent and a
mantissa. Trained and random weights have about 2.6 bits of entropy in an exponent of 8, and a mantissa that hardly
compresses. The three fields say where the bytes are; the floor is what is least of two sums, so that no coder of single
weights is accused: the fields' entropies, or that of whole bit patterns. Numbers of 32 bits have too many patterns for
a table, so their halves are taken one by one (the lower one is empty if the weights were 16-bit ones once), and the
whole only where few patterns occur, as in weights that were quantized once. It is taken tensor by tensor, so a coder
may have a table for each, and the tables cost nothing here.

Large tensors are sampled. The entropy of a sample is too low on average, never too high, which accuses nobody; by how
much it may be off is stated: two standard errors, and the bias of a sample that has not seen every pattern.

Its limit: weights that repeat can be put in fewer bytes by a coder that looks for repetitions. Equal tensors and equal
rows of a tensor count once here; what else repeats does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from djinn_checks.digest import digest_rows
from djinn_checks.instruments.entropy_floor import EntropyFloor

_FIELDS = {
    torch.bfloat16: (8, 7),
    torch.float16: (5, 10),
    torch.float32: (8, 23),
    torch.float8_e4m3fn: (4, 3),
    torch.float8_e5m2: (5, 2),
}
"""Bits of exponent and mantissa; one is the sign."""
_HALF = 16
_TIMES_SEEN = 8
"""In the mean; patterns that occur less often than that say little of their entropy."""
_BEYOND_FIRST_ORDER = 1.5
"""Normal weights of 16 and 32 bits, samples of 2^13 to 2^19 of 2^20: the bias was up to 1.3 times its first order."""
MOST_ELEMENTS = 2**20
"""Of a tensor that are looked at: bfloat16 then shows some 6,000 patterns, each 170 times in the mean."""


@dataclass(frozen=True, kw_only=True)
class TensorEntropy:
    """Bits per element of one tensor. The fields are None for a data type that has none."""

    name: str
    nbytes: int
    elements: int
    sampled: int
    """Elements that were looked at."""
    sign_bits: float | None
    exponent_bits: float | None
    mantissa_bits: float | None
    least_bits: float
    error_bits: float
    """How far `least_bits` may be off; 0 if every element was looked at."""
    distinct: float
    """Share of the elements without rows that are equal to another one."""

    @property
    def least_bytes(self) -> float:
        return self.least_bits * self.distinct * self.elements / 8

    @property
    def error_bytes(self) -> float:
        return self.error_bits * self.distinct * self.elements / 8


def measure_entropy(name: str, tensor: Tensor, *, most_elements: int = MOST_ELEMENTS, seed: int = 0) -> TensorEntropy:
    """Measure the entropy of a tensor's elements, where it lies.

    Args:
        tensor: any shape and data type; numbers of 64 bits are taken as two of 32.
        most_elements: more than so many are sampled at random, with replacement.
    """
    flat = tensor.detach().contiguous().flatten()
    words = flat.view({1: torch.uint8, 2: torch.int16}.get(flat.element_size(), torch.int32))
    elements = words.numel()
    if elements > most_elements:
        generator = torch.Generator().manual_seed(seed)
        words = words[torch.randint(elements, (most_elements,), generator=generator).to(words.device)]
    bits = words.to(torch.int64) & (2 ** (8 * words.element_size()) - 1)
    fields = _split(bits, *_FIELDS[flat.dtype]) if flat.dtype in _FIELDS else []
    by_field = [_entropy_in_tables(field) for field in fields]
    sums = [_entropy_in_tables(bits), *([_add(by_field)] if by_field else [])]
    least = min(sums, key=lambda found: found[0])
    sign, exponent, mantissa = (found[0] for found in by_field) if by_field else (None, None, None)
    return TensorEntropy(
        name=name,
        nbytes=tensor.numel() * tensor.element_size(),
        elements=elements,
        sampled=words.numel(),
        sign_bits=sign,
        exponent_bits=exponent,
        mantissa_bits=mantissa,
        least_bits=least[0],
        error_bits=least[1] if elements > most_elements else 0.0,
        distinct=_distinct_rows(tensor),
    )


def add_up(tensors: Iterable[TensorEntropy]) -> EntropyFloor:
    """Return the floor of a model from that of its tensors, equal ones left out by the caller."""
    found = list(tensors)
    total = sum(tensor.nbytes for tensor in found)
    shares: dict[str, float] = {}
    for name in ("sign", "exponent", "mantissa"):
        bits = sum((getattr(tensor, f"{name}_bits") or 0.0) * tensor.elements for tensor in found)
        shares[name] = bits / 8 / total if total else 0.0
    return EntropyFloor(
        weight_bytes=total,
        least_bytes=sum(tensor.least_bytes for tensor in found),
        error_bytes=sum(tensor.error_bytes for tensor in found),
        share_of_field=shares,
    )


def _distinct_rows(tensor: Tensor) -> float:
    """Return the share of a matrix's rows that differ; 1 for what has none, or rows that no digest can be taken of."""
    row_bytes = tensor.shape[-1] * tensor.element_size() if tensor.ndim > 1 else 0
    if tensor.numel() == 0 or row_bytes == 0 or row_bytes % 4:
        return 1.0
    rows = tensor.detach().contiguous().view(torch.uint8).reshape(-1, row_bytes)
    return len(digest_rows(rows).unique()) / len(rows)


def _split(bits: Tensor, exponent: int, mantissa: int) -> list[Tensor]:
    return [bits >> (exponent + mantissa), (bits >> mantissa) & (2**exponent - 1), bits & (2**mantissa - 1)]


def _entropy_in_tables(values: Tensor) -> tuple[float, float]:
    """Return entropy and error of values that a coder has tables for: of at most 16 bits, or of few patterns."""
    if not values.numel() or int(values.max()) < 2**_HALF:
        return _entropy(torch.bincount(values))
    counts = torch.unique(values, return_counts=True)[1]
    if len(counts) <= values.numel() / _TIMES_SEEN:
        return _entropy(counts)
    return _add([_entropy(torch.bincount(part)) for part in (values >> _HALF, values & (2**_HALF - 1))])


def _add(parts: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(found for found, _ in parts), sum(error for _, error in parts)


def _entropy(counts: Tensor) -> tuple[float, float]:
    """Return the entropy of what occurred so often in bits, and its error were it a sample.

    The error is two standard errors and the bias (K - 1) / 2N of Miller and Madow, enlarged for its higher orders,
    with Chao's estimate of how many patterns K there are, by those that were seen once and twice.
    """
    count = int(counts.sum())
    if count == 0:
        return 0.0, 0.0
    shares = counts[counts > 0].to(torch.float64) / count
    surprise = -shares.log2()
    entropy = float((shares * surprise).sum())
    variance = max(0.0, float((shares * surprise**2).sum()) - entropy**2)
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    patterns = len(shares) + once * once / (2 * max(1, twice))
    bias = _BEYOND_FIRST_ORDER * (patterns - 1) / (2 * count * math.log(2))
    return entropy, 2 * math.sqrt(variance / count) + bias
