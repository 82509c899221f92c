"""A 64-bit digest of a tensor's bytes, computed where the tensor lives and at memory speed.

The bytes are read as little-endian signed 32-bit words w_i, and the digest is sum(w_i * k_i) modulo 2^64 with
fixed odd 64-bit multipliers k_i. Any change confined to one word is seen with certainty, because an odd
k_i is invertible modulo 2^64. Changes of several words, exchanges included, go unseen with a probability
of at most 2^-32 when they do not depend on the multipliers: even the top bit of a word meets the lowest 33
bits of its multiplier. (With 64-bit words it would meet one bit, and two flipped signs would cancel out.)
It guards against defects, not against an attacker.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from djinn_checks.addresses import address_of

_WORDS = 1 << 21  # multipliers repeat with this period, each round with another odd factor
_CPU_WORDS_AT_ONCE = 1 << 17
"""What fits a CPU's cache: 1 MB of products."""
_SHORTEST = 1 << 10


@functools.lru_cache(maxsize=8)
def _multipliers(device: torch.device) -> Tensor:
    """Return 2^21 odd int64 multipliers, the same on every device."""
    generator = torch.Generator().manual_seed(0x5EED)
    words = torch.randint(-(2**63), 2**63 - 1, (_WORDS,), generator=generator, dtype=torch.int64)
    return (words | 1).to(device)


def digest(tensor: Tensor) -> Tensor:
    """Return the digest of a tensor's values as a 0-d int64 tensor on its device, without synchronizing.

    Args:
        tensor: any shape and dtype, on any device; a copy is made only if it is not contiguous.
    """
    data = tensor.detach().contiguous().flatten().view(torch.uint8)
    # A packed tensor may start at any multiple of its own dtype; int32 views need a multiple of 4.
    data = data if address_of(data) % 4 == 0 else data.clone()
    whole = data.numel() // 4 * 4
    return _combine(data[:whole].view(torch.int32).unsqueeze(0), data[whole:].unsqueeze(0))[0]


def digest_rows(rows: Tensor, *, scratch: Tensor | None = None) -> Tensor:
    """Return the digests of many equally long rows at once, as a 1-d int64 tensor; the same values as `digest`.

    Args:
        rows: [count, nbytes] uint8, each row contiguous and starting at a multiple of 4 bytes.
        scratch: 1-d int64 on a GPU, the memory to work in: the more, the fewer launches. None: 16 MB, allocated.
    """
    whole = rows.shape[1] // 4 * 4
    return _combine(rows[:, :whole].view(torch.int32), rows[:, whole:], scratch)


def _combine(words: Tensor, tail: Tensor, scratch: Tensor | None = None) -> Tensor:
    count, length = words.shape
    multipliers = _multipliers(words.device)
    at_once = _CPU_WORDS_AT_ONCE if words.device.type == "cpu" else _WORDS if scratch is None else scratch.numel()
    width = max(_SHORTEST, (1 << at_once.bit_length() - 1) >> max(0, count - 1).bit_length())
    width = min(width, _WORDS)  # and a power of two, so that no chunk crosses a period
    if words.device.type == "cpu":  # once for all chunks: a place that is new faults every page in
        scratch = torch.empty(min(words.numel(), count * width), dtype=torch.int64)
    total = torch.zeros(count, dtype=torch.int64, device=words.device)
    for start in range(0, length, width):
        chunk, place = words[:, start : start + width], start % _WORDS
        sums = _weighted_sums(chunk, multipliers[place : place + chunk.shape[1]], scratch)
        total.add_(sums, alpha=2 * (start // _WORDS) + 1)
    if tail.shape[1]:
        total -= (tail.to(torch.int64) * multipliers[: tail.shape[1]]).sum(dim=1)
    return total + (4 * length + tail.shape[1])


def _weighted_sums(words: Tensor, multipliers: Tensor, scratch: Tensor | None) -> Tensor:
    if scratch is None or scratch.numel() < words.numel():
        return (words * multipliers).sum(dim=1)
    products = scratch[: words.numel()].view(words.shape)
    if words.device.type == "cpu":  # multiplying mixed types takes a CPU eight times as long as converting first
        return products.copy_(words).mul_(multipliers).sum(dim=1)
    return torch.mul(words, multipliers, out=products).sum(dim=1)
