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

_WORDS = 1 << 21  # multipliers repeat with this period, each round with another odd factor


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
    whole = data.numel() // 4 * 4
    words = data[:whole]
    # A packed tensor may start at any multiple of its own dtype; int32 views need a multiple of 4.
    words = (words if words.data_ptr() % 4 == 0 else words.clone()).view(torch.int32)
    multipliers = _multipliers(data.device)
    total = torch.zeros((), dtype=torch.int64, device=data.device)
    for round_number, chunk in enumerate(words.split(_WORDS)):
        total += _weighted_sum(chunk, multipliers[: chunk.numel()]) * (2 * round_number + 1)
    tail = data[whole:].to(torch.int64)
    return total + (tail * multipliers[: tail.numel()]).sum() * -1 + data.numel()


def _weighted_sum(words: Tensor, multipliers: Tensor) -> Tensor:
    if words.device.type == "cpu":  # multiplying mixed types takes a CPU eight times as long as converting first
        return words.to(torch.int64).mul_(multipliers).sum()
    return (words * multipliers).sum()
