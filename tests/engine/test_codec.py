"""A codec gives back every bit, says what it cannot do, and uses nvCOMP so that no decode waits."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import zlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from djinn_checks.engine.ans import AnsCodec
from djinn_checks.engine.codec import checksum
from djinn_checks.engine.codecs import default_codec_name, open_codec
from djinn_checks.engine.planes import PlanesCodec
from djinn_checks.engine.segments import ALIGNMENT
from djinn_checks.errors import CodecError, SystemNotInstalledError, SystemUnavailableError
from djinn_checks.units import MIB

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
TYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int8, torch.float8_e4m3fn]


def there_and_back(plain: Tensor, dtype: torch.dtype) -> Tensor:
    """Encode, check that it decodes to what it was, and return the encoded bytes."""
    codec = PlanesCodec()
    encoded = codec.encode(plain, dtype)
    again = torch.full_like(plain, 77)
    codec.decoder(encoded, again, dtype)()
    assert torch.equal(again, plain)
    return encoded


def normal(count: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 0.02
    return values.to(dtype).view(torch.uint8)


@given(
    rows=st.integers(1, 40), dtype=st.sampled_from(TYPES), seed=st.integers(0, 2**32),
    kind=st.sampled_from(["normal", "noise", "zeros", "both"]),
)  # fmt: skip
def test_planes_give_back_every_bit_whatever_the_bytes_are(rows: int, dtype: torch.dtype, seed: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    plain = torch.randint(0, 256, (rows * ALIGNMENT,), dtype=torch.uint8, generator=generator)
    if kind == "normal":
        plain = normal(plain.numel() // dtype.itemsize, dtype, seed)
    elif kind == "zeros":
        plain.zero_()
    elif kind == "both":
        plain[: plain.numel() // 2] = 3
    there_and_back(plain, dtype)


def test_planes_of_more_than_a_block_and_not_a_whole_number_of_them_come_back() -> None:
    plain = normal((3 * MIB + 5 * ALIGNMENT) // 2, torch.bfloat16)
    assert there_and_back(plain, torch.bfloat16).numel() < 0.7 * plain.numel()


@pytest.mark.parametrize(
    ("dtype", "share"), [(torch.bfloat16, 0.68), (torch.float16, 0.86), (torch.float32, 0.84)], ids=str
)
def test_normal_weights_shrink_to_about_their_entropy(dtype: torch.dtype, share: float) -> None:
    plain = normal(1 << 18, dtype)
    assert there_and_back(plain, dtype).numel() < share * plain.numel()


def test_noise_does_not_grow_by_more_than_the_lengths_of_its_blocks() -> None:
    plain = torch.randint(0, 256, (2 * MIB,), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    assert there_and_back(plain, torch.bfloat16).numel() == plain.numel() + 2 * 8


def test_bytes_that_were_not_encoded_are_refused_where_they_cannot_be_decoded() -> None:
    codec, plain = PlanesCodec(), normal(1 << 12, torch.bfloat16)
    encoded = codec.encode(plain, torch.bfloat16)
    broken = encoded.clone()
    broken[-40:] = 0
    with pytest.raises(CodecError, match="decode"):
        codec.decoder(broken, plain.clone(), torch.bfloat16)()
    short = torch.frombuffer(bytearray(zlib.compress(b"", wbits=-15)), dtype=torch.uint8)
    head = torch.tensor([0, short.numel()]).view(torch.uint8)
    with pytest.raises(CodecError, match="decode to 0 bytes, expected 4,096"):
        codec.decoder(torch.cat([head, plain[:4096], short]), plain.clone(), torch.bfloat16)()


@given(word=st.integers(0, 63), bit=st.integers(0, 63), seed=st.integers(0, 2**32))
def test_a_flipped_bit_always_changes_the_sum(word: int, bit: int, seed: int) -> None:
    words = torch.randint(-(2**63), 2**63 - 1, (64,), generator=torch.Generator().manual_seed(seed))
    before = int(checksum(words.view(torch.uint8)))
    words[word] ^= -(2**63) if bit == 63 else 1 << bit
    assert int(checksum(words.view(torch.uint8))) != before


def test_a_codec_is_named_for_its_device_or_refused_with_the_one_that_fits() -> None:
    assert open_codec("raw", CPU) is None
    assert open_codec("raw", CUDA) is None
    assert isinstance(open_codec(default_codec_name(CPU), CPU), PlanesCodec)
    assert default_codec_name(CUDA) == "ans"
    with pytest.raises(CodecError, match="expected one of raw, ans, planes, got 'zip'"):
        open_codec("zip", CPU)
    with pytest.raises(CodecError, match="'ans' does not work on cpu; use 'planes'"):
        open_codec("ans", CPU)
    with pytest.raises(CodecError, match="'planes' does not work on cuda:0; use 'ans'"):
        open_codec("planes", CUDA)


def test_without_nvcomp_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(SystemNotInstalledError, match=r"pip install djinn-checks\[codec\]") as caught:
        AnsCodec(CUDA)
    assert isinstance(caught.value, SystemUnavailableError)


class MadeLibrary:
    """nvCOMP's batched C interface over memory of the host: it deflates, and notes how it is used."""

    def __init__(self) -> None:
        self.types: list[tuple[str, int]] = []
        self.decodes = 0

    def nvcompBatchedANSCompressGetMaxOutputChunkSize(self, chunk: Any, options: Any, found: Any) -> int:  # noqa: N802
        found._obj.value = chunk.value + 100
        return 0

    def nvcompBatchedANSCompressGetTempSize(  # noqa: N802
        self, count: Any, chunk: Any, options: Any, found: Any, total: Any, stream: Any
    ) -> int:
        found._obj.value = 8
        return 0

    def nvcompBatchedANSDecompressGetTempSize(  # noqa: N802
        self, count: Any, chunk: Any, options: Any, found: Any, total: Any, stream: Any
    ) -> int:
        found._obj.value = 0
        return 0

    def nvcompBatchedANSCompressAsync(  # noqa: N802
        self, sources: Any, sizes: Any, largest: Any, count: Any, temp: Any, temp_bytes: Any, outs: Any, lengths: Any,
        options: Any, said: Any, stream: Any
    ) -> int:  # fmt: skip
        assert stream.value == 4711
        self.types.append(("encode", options.data_type))
        for chunk, (source, size, out) in enumerate(
            zip(*(numbers(at, count) for at in (sources, sizes, outs)), strict=True)
        ):
            assert out % 16 == 0
            found = zlib.compress(ctypes.string_at(source, size))
            ctypes.memmove(out, found, len(found))
            ctypes.c_int64.from_address(lengths.value + 8 * chunk).value = len(found)
        return 0

    def nvcompBatchedANSDecompressAsync(  # noqa: N802
        self, sources: Any, lengths: Any, sizes: Any, came: Any, count: Any, temp: Any, temp_bytes: Any, places: Any,
        options: Any, said: Any, stream: Any
    ) -> int:  # fmt: skip
        assert stream.value == 4711
        self.types.append(("decode", options.data_type))
        self.decodes += 1
        for source, length, size, place in zip(
            *(numbers(at, count) for at in (sources, lengths, sizes, places)), strict=True
        ):
            assert source % 16 == 0
            found = zlib.decompress(ctypes.string_at(source, length))
            assert len(found) == size
            ctypes.memmove(place, found, size)
        return 0


def numbers(at: Any, count: Any) -> list[int]:
    return list((ctypes.c_int64 * count.value).from_address(at.value))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> MadeLibrary:
    made = MadeLibrary()
    stream = SimpleNamespace(cuda_stream=4711, wait_stream=lambda other: None, synchronize=lambda: None)
    package = SimpleNamespace(load_library=lambda: made, __version__="6.0")
    monkeypatch.setattr(importlib, "import_module", lambda name: package)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    return made


@pytest.mark.parametrize("nbytes", [512, MIB, 2 * MIB + 512])
def test_what_nvcomp_encoded_in_chunks_is_decoded_from_where_it_landed_by_one_call(
    library: MadeLibrary, nbytes: int
) -> None:
    codec = AnsCodec(CPU)
    for dtype, kind in ((torch.bfloat16, 10), (torch.float16, 10), (torch.float32, 11), (torch.int8, 0)):
        plain = normal(nbytes // dtype.itemsize, dtype)
        assert plain.numel() == nbytes
        encoded = codec.encode(plain, dtype)
        landed, again = torch.zeros_like(encoded), torch.zeros_like(plain)
        decode = codec.decoder(encoded, again, dtype, landed=landed)
        landed.copy_(encoded)
        library.decodes = 0
        decode()
        assert library.decodes == 1
        assert torch.equal(again, plain)
        assert library.types[-2:] == [("encode", kind), ("decode", kind)]
        here = torch.zeros_like(plain)
        codec.decoder(encoded, here, dtype)()
        assert torch.equal(here, plain)


def test_a_table_that_lands_otherwise_is_not_followed_and_bytes_without_one_are_refused(library: MadeLibrary) -> None:
    codec = AnsCodec(CPU)
    plain = normal(2 * MIB, torch.bfloat16)
    encoded, again = codec.encode(plain, torch.bfloat16), torch.zeros_like(plain)
    landed = encoded.clone()
    decode = codec.decoder(encoded, again, torch.bfloat16, landed=landed)
    landed[:16] = 255
    decode()
    assert torch.equal(again, plain), "where chunks lie and how long they are is known from before"
    for wrong in (landed, encoded[:-16], torch.zeros_like(encoded), encoded[:8]):
        with pytest.raises(CodecError, match="are not what it encoded 4,194,304 bytes to"):
            codec.decoder(wrong, again, torch.bfloat16)


def test_a_library_that_refuses_or_is_not_for_this_machine_is_named(
    library: MadeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = AnsCodec(CPU)
    monkeypatch.setattr(library, "nvcompBatchedANSCompressAsync", lambda *_: 11, raising=False)
    with pytest.raises(CodecError, match="nvcompBatchedANSCompressAsync of nvCOMP answered with status 11"):
        codec.encode(normal(256, torch.bfloat16), torch.bfloat16)
    package = SimpleNamespace(load_library=lambda: None)
    monkeypatch.setattr(importlib, "import_module", lambda name: package)
    with pytest.raises(SystemNotInstalledError, match="no library for this machine"):
        AnsCodec(CPU)
