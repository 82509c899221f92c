"""Asymmetric numeral systems on a GPU, by NVIDIA's nvCOMP (`pip install djinn-checks[codec]`, under NVIDIA's licence).

How its Python interface is used follows from what it would do otherwise:
- A decode without a configuration reads the header of the encoded bytes back to the host, and so waits for all that is
  queued before it. With one that is made from a size alone it waits for nothing.
- What one codec encoded, another one with other settings must not decode: the same objects do both, on one stream.
- Wrapping memory takes the host some microseconds, so all places are wrapped once.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from djinn_checks.engine.codec import Decode
from djinn_checks.errors import CodecError, SystemNotInstalledError

_CHUNK_BYTES = 1 << 20
"""256 KiB to 1 MiB: smaller ones take more room, larger ones decode at half the rate."""
_TYPES = {
    torch.bfloat16: "<f2",
    torch.float16: "<f2",
    torch.float32: "<f4",
    torch.float8_e4m3fn: "|f1",
}
_BYTES = "|u1"


class AnsCodec:
    """nvCOMP's ANS codec on one device.

    Attributes:
        stream: what it encodes and decodes on.
        settings: the library's version and the size of a chunk.
    """

    name = "ans"

    def __init__(self, device: torch.device) -> None:
        """Open the library.

        Raises:
            SystemNotInstalledError: it is missing.
        """
        self._library = _find_library()
        version = getattr(self._library, "__version__", "unknown")
        self.settings = f"ans of nvCOMP {version}, chunks of {_CHUNK_BYTES}"
        self._device = device
        self.stream = torch.cuda.Stream(device)
        self._codecs: dict[str, Any] = {}
        self._configurations: dict[tuple[str, int], tuple[Any, Any]] = {}

    def encode(self, plain: Tensor, dtype: torch.dtype) -> Tensor:
        kind = _TYPES.get(dtype, _BYTES)
        self.stream.wait_stream(torch.cuda.current_stream(self._device))
        to_encode, _ = self._configure(kind, plain.numel())
        found = self._codec(kind).encode(self._wrap(plain), compression_config=to_encode)
        self.stream.synchronize()
        if found is None:
            raise CodecError(f"codec 'ans': nvCOMP encoded nothing of {plain.numel():,} bytes")
        encoded = torch.as_tensor(found, device=self._device).flatten().view(torch.uint8).clone()
        torch.cuda.current_stream(self._device).synchronize()  # nvCOMP's own memory goes back to it now
        return encoded

    def decoder(self, encoded: Tensor, plain: Tensor, dtype: torch.dtype) -> Decode:
        kind = _TYPES.get(dtype, _BYTES)
        codec, (_, to_decode) = self._codec(kind), self._configure(kind, plain.numel())
        source, out = self._wrap(encoded), self._wrap(plain)

        def decode() -> None:
            codec.decode(source, out=out, decompression_config=to_decode)

        return decode

    def _codec(self, kind: str) -> Any:
        if kind not in self._codecs:
            self._codecs[kind] = self._library.Codec(
                algorithm="ANS",
                data_type=kind,
                uncomp_chunk_size=_CHUNK_BYTES,
                device_id=torch.cuda.current_device() if self._device.index is None else self._device.index,
                cuda_stream=self.stream.cuda_stream,
            )
        return self._codecs[kind]

    def _configure(self, kind: str, nbytes: int) -> tuple[Any, Any]:
        """Return how to encode and how to decode so many bytes, from their number alone."""
        if (kind, nbytes) not in self._configurations:
            to_encode = self._codec(kind).compression_config(nbytes)
            self._configurations[kind, nbytes] = (to_encode, self._codec(kind).decompression_config(to_encode))
        return self._configurations[kind, nbytes]

    def _wrap(self, memory: Tensor) -> Any:
        return self._library.as_array(memory, cuda_stream=self.stream.cuda_stream)


def _find_library() -> Any:
    try:
        return importlib.import_module("nvidia.nvcomp")
    except ImportError as error:
        raise SystemNotInstalledError(
            f"codec 'ans' needs nvCOMP, which cannot be imported ({error}); `pip install djinn-checks[codec]` brings "
            "it, under NVIDIA's licence; or let the weights travel as they are (codec 'raw')"
        ) from error
