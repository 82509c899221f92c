"""Asymmetric numeral systems on a GPU, by NVIDIA's nvCOMP (`pip install djinn-checks[codec]`, under NVIDIA's licence).

A segment is encoded in chunks, by the library's batched C interface. How long each chunk became stands in a table
before them. The table is read once, where it was written, and never where encoded bytes land: a decode follows no
pointer that came over the link, and is one call that waits for nothing. (The library's Python interface synchronizes
an event in each decode, which keeps the host waiting once many are queued; nvCOMP 6.0.0.12 on an H200.)
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

import torch
from torch import Tensor

from djinn_checks.engine.codec import Decode
from djinn_checks.errors import CodecError, SystemNotInstalledError

_CHUNK_BYTES = 1 << 20
"""256 KiB to 1 MiB: smaller ones take more room, larger ones decode at half the rate."""
_ALIGNMENT = 16
"""`nvcompANSRequiredDecompressionAlignment` and that of compression: where a chunk may begin."""
_WORD = 8
_CHAR, _FLOAT8_E4M3, _FLOAT16, _FLOAT32 = 0, 9, 10, 11  # nvcompType_t
_TYPES = {
    torch.bfloat16: _FLOAT16,  # which stands for all of two bytes
    torch.float16: _FLOAT16,
    torch.float32: _FLOAT32,
    torch.float8_e4m3fn: _FLOAT8_E4M3,
}
_BY_KERNELS = 2  # nvcompDecompressBackend_t


class AnsCodec:
    """nvCOMP's ANS codec on one device.

    Attributes:
        stream: what it encodes on.
        settings: the library's version and the size of a chunk.
    """

    name = "ans"

    def __init__(self, device: torch.device) -> None:
        """Open the library.

        Raises:
            SystemNotInstalledError: it is missing.
        """
        self._library, version = _find_library()
        self.settings = f"ans of nvCOMP {version}, table and chunks of {_CHUNK_BYTES}"
        self._device = device
        self.stream = torch.cuda.Stream(device)
        self._scratch = torch.empty(0, dtype=torch.uint8, device=device)

    def encode(self, plain: Tensor, dtype: torch.dtype) -> Tensor:
        self.stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self.stream):
            encoded = self._encode(plain, _CompressOptions(data_type=_TYPES.get(dtype, _CHAR)))
        self.stream.synchronize()
        return encoded

    def _encode(self, plain: Tensor, options: _CompressOptions) -> Tensor:
        sizes = self._on_device(_chunk_sizes(plain.numel()))
        count, most = len(sizes), ctypes.c_size_t()
        self._call("nvcompBatchedANSCompressGetMaxOutputChunkSize", _size(_CHUNK_BYTES), options, ctypes.byref(most))
        room = _up(most.value, _ALIGNMENT)
        temp_bytes = ctypes.c_size_t()
        self._call(
            "nvcompBatchedANSCompressGetTempSize",
            *(_size(count), _size(_CHUNK_BYTES), options, ctypes.byref(temp_bytes), _size(plain.numel()), self._handle),
        )
        temp = self._empty(temp_bytes.value)
        out = self._empty(count * room)
        sources, outs = self._spread(plain, count, _CHUNK_BYTES), self._spread(out, count, room)
        lengths, said = torch.zeros_like(sizes), torch.zeros(count, dtype=torch.int32, device=self._device)
        self._call(
            "nvcompBatchedANSCompressAsync",
            *(_at(sources), _at(sizes), _size(_CHUNK_BYTES), _size(count), _at(temp), _size(temp.numel())),
            *(_at(outs), _at(lengths), options, _at(said), self._handle),
        )
        if bool(said.any()):
            raise CodecError(f"codec 'ans': nvCOMP encoded nothing of {plain.numel():,} bytes (status {said.max()})")
        table = lengths.cpu()
        starts, end = _lay_out(table)
        encoded = torch.zeros(end, dtype=torch.uint8, device=self._device)
        encoded[: _WORD * count].copy_(table.view(torch.uint8))
        for chunk, (start, length) in enumerate(zip(starts, table.tolist(), strict=True)):
            encoded[start : start + length].copy_(out[chunk * room :][:length])
        return encoded

    def decoder(self, encoded: Tensor, plain: Tensor, dtype: torch.dtype, *, landed: Tensor | None = None) -> Decode:
        sizes = _chunk_sizes(plain.numel())
        starts, lengths = _read_table(encoded, len(sizes), plain.numel())
        source = encoded if landed is None else landed
        options = _DecompressOptions(backend=_BY_KERNELS, data_type=_TYPES.get(dtype, _CHAR))
        table = self._on_device(
            [
                [source.data_ptr() + start for start in starts],
                lengths,
                sizes,
                [plain.data_ptr() + chunk * _CHUNK_BYTES for chunk in range(len(sizes))],
                [0] * len(sizes),  # how many bytes came out
                [0] * len(sizes),  # how it went, in four bytes each
            ]
        )
        temp_bytes, count = ctypes.c_size_t(), _size(len(sizes))
        self._call(
            "nvcompBatchedANSDecompressGetTempSize",
            *(count, _size(_CHUNK_BYTES), options, ctypes.byref(temp_bytes), _size(plain.numel()), self._handle),
        )
        temp = self._share_scratch(temp_bytes.value)
        given, lengths_at, sizes_at, places, came, said = (_at(row) for row in table)
        held = (table, source, plain, temp)
        work = (given, lengths_at, sizes_at, came, count, _at(temp), _size(temp.numel()), places, options, said)

        def decode(keep: Any = held) -> None:
            stream = torch.cuda.current_stream(self._device).cuda_stream
            self._call("nvcompBatchedANSDecompressAsync", *work, ctypes.c_void_p(stream))

        return decode

    @property
    def _handle(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.stream.cuda_stream)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise CodecError(f"codec 'ans': {name} of nvCOMP answered with status {status} (nvcompStatus_t)")

    def _empty(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def _on_device(self, numbers: Any) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64).to(self._device)

    def _spread(self, memory: Tensor, count: int, step: int) -> Tensor:
        return self._on_device([memory.data_ptr() + chunk * step for chunk in range(count)])

    def _share_scratch(self, nbytes: int) -> Tensor:
        """Return memory that all decodes may use, as they follow each other."""
        if self._scratch.numel() < nbytes:
            self._scratch = self._empty(nbytes)
        return self._scratch


class _CompressOptions(ctypes.Structure):
    """`nvcompBatchedANSCompressOpts_t`."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("data_type", ctypes.c_int),
        ("max_sub_chunk_count", ctypes.c_uint8),
        ("states_per_lane", ctypes.c_uint8),
        ("histogram_reduction_log2", ctypes.c_uint8),
        ("reserved", ctypes.c_char * 53),
    )


class _DecompressOptions(ctypes.Structure):
    """`nvcompBatchedANSDecompressOpts_t`."""

    _fields_ = (
        ("backend", ctypes.c_int),
        ("data_type", ctypes.c_int),
        ("max_sub_chunk_count", ctypes.c_uint8),
        ("states_per_lane", ctypes.c_uint8),
        ("skip_validate", ctypes.c_uint8),
        ("reserved", ctypes.c_char * 53),
    )


def _chunk_sizes(nbytes: int) -> list[int]:
    return [min(_CHUNK_BYTES, nbytes - start) for start in range(0, nbytes, _CHUNK_BYTES)]


def _lay_out(lengths: Tensor) -> tuple[list[int], int]:
    """Return where chunks of so many bytes begin behind their table, and where the last one's place ends."""
    starts, end = [], _up(_WORD * lengths.numel(), _ALIGNMENT)
    for length in lengths.tolist():
        starts.append(end)
        end = _up(end + length, _ALIGNMENT)
    return starts, end


def _read_table(encoded: Tensor, count: int, plain_bytes: int) -> tuple[list[int], list[int]]:
    """Return where the chunks begin, and how long each is.

    Raises:
        CodecError: these bytes do not begin with such a table.
    """
    table = encoded[: _WORD * count].cpu().clone().view(torch.int64)
    whole = len(table) == count and bool((table > 0).all()) and int(table.max()) <= 2 * _CHUNK_BYTES
    starts, end = _lay_out(table) if whole else ([], -1)
    if end != encoded.numel():
        raise CodecError(
            f"codec 'ans': {encoded.numel():,} bytes are not what it encoded {plain_bytes:,} bytes to: expected a "
            f"table of {count:,} chunks and these behind it; encode them again"
        )
    return starts, table.tolist()


def _up(nbytes: int, to: int) -> int:
    return -(-nbytes // to) * to


def _size(number: int) -> ctypes.c_size_t:
    return ctypes.c_size_t(number)


def _at(memory: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(memory.data_ptr() if memory.numel() else None)


def _find_library() -> tuple[Any, str]:
    """Return the library, and its version."""
    try:
        package = importlib.import_module("nvidia.libnvcomp")
        library = package.load_library()
    except (ImportError, OSError) as error:
        raise _not_installed(str(error)) from error
    if library is None:
        raise _not_installed("its package has no library for this machine")
    return library, str(getattr(package, "__version__", "unknown"))


def _not_installed(why: str) -> SystemNotInstalledError:
    return SystemNotInstalledError(
        f"codec 'ans' needs nvCOMP, which cannot be loaded ({why}); `pip install djinn-checks[codec]` brings it, under "
        "NVIDIA's licence; or let the weights travel as they are (codec 'raw')"
    )
