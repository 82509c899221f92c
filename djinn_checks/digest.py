"""A 64-bit digest of a tensor's bytes, computed where the tensor lives and at memory speed.

The bytes are read as little-endian 64-bit words w_i, and the digest is sum(w_i * k_i) modulo 2^64 with
fixed odd multipliers k_i. Any change confined to one word is seen with certainty, because an odd k_i is
invertible modulo 2^64. Changes of several words, exchanges included, go unseen with a probability of
about 2^-64 when they do not depend on the multipliers. It guards against defects, not against an attacker.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

_WORDS = 1 << 20  # multipliers repeat with this period, each round with another odd factor


@functools.lru_cache(maxsize=8)
def _multipliers(device: torch.device) -> Tensor:
    """Return 2^20 odd int64 multipliers, the same on every device."""
    generator = torch.Generator().manual_seed(0x5EED)
    words = torch.randint(-(2**63), 2**63 - 1, (_WORDS,), generator=generator, dtype=torch.int64)
    return (words | 1).to(device)


def digest(tensor: Tensor) -> Tensor:
    """Return the digest of a tensor's values as a 0-d int64 tensor on its device, without synchronizing.

    Args:
        tensor: any shape and dtype, on any device; a copy is made only if it is not contiguous.
    """
    data = tensor.detach().contiguous().flatten().view(torch.uint8)
    whole = data.numel() // 8 * 8
    words = data[:whole]
    # A packed tensor may start at any multiple of its own dtype; int64 views need a multiple of 8.
    words = (words if words.data_ptr() % 8 == 0 else words.clone()).view(torch.int64)
    multipliers = _multipliers(data.device)
    total = torch.zeros((), dtype=torch.int64, device=data.device)
    for round_number, chunk in enumerate(words.split(_WORDS)):
        total += (chunk * multipliers[: chunk.numel()]).sum() * (2 * round_number + 1)
    tail = data[whole:].to(torch.int64)
    return total + (tail * multipliers[: tail.numel()]).sum() * -1 + data.numel()
