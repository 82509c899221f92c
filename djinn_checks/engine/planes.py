"""A codec of the standard library, for machines without a GPU."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import torch
from torch import Tensor

from djinn_checks.engine.codec import Decode
from djinn_checks.errors import CodecError

_BLOCK = 1 << 20
_HEADER = torch.int64
_KEPT = 0
"""Stands for the length of a block whose bytes were left as they are."""


class PlanesCodec:
    """Deflates the bytes of a value apart from each other, on a CPU: exponents are alike, mantissas are noise.

    Only Huffman codes are used, no matches: weights do not repeat themselves. It is for machines without a GPU, where
    it drives what moves encoded bytes; no link within host memory is slow enough for it to pay.
    """

    name = "planes"
    settings = f"planes 1, blocks of {_BLOCK}"
    stream = None

    def encode(self, plain: Tensor, dtype: torch.dtype) -> Tensor:
        blocks = [_deflate(block) for plane in _planes(plain, dtype) for block in plane.split(_BLOCK)]
        lengths = torch.tensor([_KEPT if kept else block.numel() for block, kept in blocks], dtype=_HEADER)
        return torch.cat([lengths.view(torch.uint8), *(block for block, _ in blocks)])

    def decoder(self, encoded: Tensor, plain: Tensor, dtype: torch.dtype, *, landed: Tensor | None = None) -> Decode:
        source = encoded if landed is None else landed
        return lambda: _inflate(source, plain, dtype)


def _planes(plain: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Give the first bytes of all values, the second ones and so on: views with gaps."""
    yield from plain.view(-1, dtype.itemsize).unbind(1)


def _deflate(block: Tensor) -> tuple[Tensor, bool]:
    """Return the encoded bytes, or the bytes themselves if these are no more, and whether it is these."""
    block = block.contiguous()
    squeezer = zlib.compressobj(level=1, wbits=-15, strategy=zlib.Z_HUFFMAN_ONLY)
    found = squeezer.compress(block.numpy().data) + squeezer.flush()
    if len(found) >= block.numel():
        return block, True
    return torch.frombuffer(bytearray(found), dtype=torch.uint8), False


def _inflate(encoded: Tensor, plain: Tensor, dtype: torch.dtype) -> None:
    planes = list(_planes(plain, dtype))
    blocks = [block for plane in planes for block in plane.split(_BLOCK)]
    head = len(blocks) * _HEADER.itemsize
    lengths = encoded[:head].clone().view(_HEADER).tolist()
    start = head
    for block, length in zip(blocks, lengths, strict=True):
        taken = encoded[start : start + (length or block.numel())]
        start += taken.numel()
        if not length:
            block.copy_(taken)
            continue
        try:
            found = zlib.decompress(taken.numpy().data, wbits=-15, bufsize=block.numel())
        except zlib.error as error:
            raise CodecError(f"encoded bytes cannot be decoded ({error}); they are not what was encoded") from error
        if len(found) != block.numel():
            raise CodecError(f"encoded bytes decode to {len(found):,} bytes, expected {block.numel():,}")
        block.copy_(torch.frombuffer(bytearray(found), dtype=torch.uint8))
