"""What a codec is: a segment's bytes are made fewer for the link, and whole again behind it.

A codec never loses a bit, so what it is told about a data type is a hint. Encoding happens once, when the weights are
read. Decoding happens in every forward: between the place where the encoded bytes land and the one where the weights
are used, without the host waiting for anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Decode = Callable[[], None]
"""Decodes from one fixed place into another one: at once on a CPU, enqueued on the current stream on CUDA."""


class Codec(Protocol):
    """Encodes and decodes bytes of one device.

    Attributes:
        name: what `open_codec` knows it by.
        settings: all that decides whether one codec can decode what another one encoded, its library's version too.
    """

    name: str
    settings: str

    @property
    def stream(self) -> torch.cuda.Stream | None:
        """The CUDA stream that it encodes on; None on a CPU."""
        ...

    def encode(self, plain: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the encoded bytes (1-d uint8, on the same device). It may wait for the device.

        Args:
            plain: 1-d uint8, a multiple of 512 bytes that starts at a multiple of 512.
            dtype: of most of the values in it.
        """
        ...

    def decoder(self, encoded: Tensor, plain: Tensor, dtype: torch.dtype, *, landed: Tensor | None = None) -> Decode:
        """Prepare to decode, time and again. It may wait for the device; what it returns does not.

        Decodes of one codec share memory: each has to follow the one before.

        Args:
            encoded: what `encode` returned, on any device.
            plain, dtype: as they were given to `encode`.
            landed: where the same bytes will lie at each decode, on the codec's device at a multiple of 16; None:
                in `encoded` itself.

        Raises:
            CodecError: these bytes are not of this codec.
        """
        ...


def checksum(words: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return the sum modulo 2^64 of the bytes' 64-bit words, as a 0-d int64 tensor on their device.

    Args:
        words: 1-d uint8, a multiple of 8 bytes that starts at a multiple of 8.
        out: 0-d int64 on the same device, which gets the sum.
    """
    return torch.sum(words.view(torch.int64), dim=0, out=out)
