"""Codecs: how a segment's bytes are made fewer for the link, and whole again behind it.

A codec never loses a bit, so what it is told about a data type is a hint. Encoding happens once, when the weights are
read. Decoding happens in every forward: between the place where the encoded bytes land and the one where the weights
are used, on a stream of its own, without the host waiting for anything.

Without a codec weights travel as they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from djinn_checks.errors import CodecError

CODECS = ("raw", "ans", "planes")
"""What `open_codec` knows."""

Decode = Callable[[], None]
"""Decodes from one fixed place into another one: at once on a CPU, enqueued on the codec's stream on CUDA."""

_BLOCK = 1 << 20
_HEADER = torch.int64
_KEPT = 0
"""Stands for the length of a block whose bytes were left as they are."""


class Codec(Protocol):
    """Encodes and decodes bytes of one device.

    Attributes:
        name: one of `CODECS`.
        stream: the CUDA stream that it works on; None on a CPU.
    """

    name: str
    stream: torch.cuda.Stream | None

    def encode(self, plain: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the encoded bytes (1-d uint8, on the same device). It may wait for the device.

        Args:
            plain: 1-d uint8, a multiple of 512 bytes that starts at a multiple of 512.
            dtype: of most of the values in it.
        """
        ...

    def decoder(self, encoded: Tensor, plain: Tensor, dtype: torch.dtype) -> Decode:
        """Prepare to decode, time and again, what will then lie in `encoded` into `plain`.

        Args:
            encoded: 1-d uint8, exactly as long as what `encode` returned, at a multiple of 512.
            plain, dtype: as they were given to `encode`.
        """
        ...


class PlanesCodec:
    """Deflates the bytes of a value apart from each other, on a CPU: exponents are alike, mantissas are noise.

    Only Huffman codes are used, no matches: weights do not repeat themselves. It is for machines without a GPU, where
    it drives what moves encoded bytes; no link within host memory is slow enough for it to pay.
    """

    name = "planes"
    stream = None

    def encode(self, plain: Tensor, dtype: torch.dtype) -> Tensor:
        blocks = [_deflate(block) for plane in _planes(plain, dtype) for block in plane.split(_BLOCK)]
        lengths = torch.tensor([_KEPT if kept else block.numel() for block, kept in blocks], dtype=_HEADER)
        return torch.cat([lengths.view(torch.uint8), *(block for block, _ in blocks)])

    def decoder(self, encoded: Tensor, plain: Tensor, dtype: torch.dtype) -> Decode:
        return lambda: _inflate(encoded, plain, dtype)


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


def open_codec(name: str, device: torch.device) -> Codec | None:
    """Return the codec of that name for `device`, or None for `raw`: weights travel as they are.

    Raises:
        CodecError: there is none of that name, or not for this device.
        SystemNotInstalledError: its library is missing.
    """
    if name == "raw":
        return None
    if name not in CODECS:
        raise CodecError(f"codec: expected one of {', '.join(CODECS)}, got {name!r}")
    if (name == "ans") != (device.type == "cuda"):
        fitting = "ans" if device.type == "cuda" else "planes"
        raise CodecError(f"codec {name!r} does not work on {device}; use {fitting!r} there, or 'raw'")
    if name == "planes":
        return PlanesCodec()
    from djinn_checks.engine.ans import AnsCodec

    return AnsCodec(device)


def default_codec_name(device: torch.device) -> str:
    """Return the name of the codec that works on `device`."""
    return "ans" if device.type == "cuda" else "planes"


def checksum(words: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return the sum modulo 2^64 of the bytes' 64-bit words, as a 0-d int64 tensor on their device.

    Args:
        words: 1-d uint8, a multiple of 8 bytes that starts at a multiple of 8.
        out: 0-d int64 on the same device, which gets the sum.
    """
    return torch.sum(words.view(torch.int64), dim=0, out=out)
