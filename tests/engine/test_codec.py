"""A codec gives back every bit, says what it cannot do, and uses nvCOMP so that no decode waits."""

from __future__ import annotations

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
    """nvCOMP's Python interface over memory of the host: it encodes with zlib and notes how it is used."""

    def __init__(self) -> None:
        self.codecs: list[MadeLibrary.Codec] = []
        self.wrapped = 0
        library = self

        class Codec(MadeLibrary._Codec):
            def __init__(self, **settings: Any) -> None:
                super().__init__(settings)
                library.codecs.append(self)

        self.Codec = Codec

    def as_array(self, memory: Tensor, cuda_stream: int = 0) -> Tensor:
        assert cuda_stream == 4711
        self.wrapped += 1
        return memory

    class _Codec:
        def __init__(self, settings: dict[str, Any]) -> None:
            self.settings = settings

        def compression_config(self, nbytes: int) -> tuple[Any, ...]:
            assert isinstance(nbytes, int)
            return ("encode", self, nbytes)

        def decompression_config(self, made_from: tuple[Any, ...]) -> tuple[Any, ...]:
            assert isinstance(made_from, tuple), "made from encoded bytes: that waits for the device"
            return ("decode", *made_from[1:])

        def encode(self, plain: Tensor, compression_config: Any) -> Tensor:
            assert compression_config == ("encode", self, plain.numel())
            return torch.frombuffer(bytearray(zlib.compress(plain.numpy().tobytes())), dtype=torch.uint8)

        def decode(self, encoded: Tensor, out: Tensor, decompression_config: Any = None) -> None:
            assert decompression_config == ("decode", self, out.numel()), "without a configuration a decode waits"
            out.copy_(torch.frombuffer(bytearray(zlib.decompress(encoded.numpy().tobytes())), dtype=torch.uint8))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> MadeLibrary:
    made = MadeLibrary()
    stream = SimpleNamespace(cuda_stream=4711, wait_stream=lambda other: None, synchronize=lambda: None)
    monkeypatch.setattr(importlib, "import_module", lambda name: made)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return made


def test_what_nvcomp_encoded_is_decoded_by_the_same_codec_with_a_configuration_made_from_a_size(
    library: MadeLibrary,
) -> None:
    codec = AnsCodec(CPU)
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.int8):
        plain = normal(1 << 10, dtype)
        encoded = codec.encode(plain, dtype)
        again = torch.zeros_like(plain)
        decode = codec.decoder(encoded, again, dtype)
        wrapped = library.wrapped
        decode()
        decode()
        assert library.wrapped == wrapped, "memory is wrapped once, not in every pass"
        assert torch.equal(again, plain)
    kinds = [made.settings["data_type"] for made in library.codecs]
    assert kinds == ["<f2", "<f4", "|u1"]
    for made in library.codecs:
        assert made.settings["algorithm"] == "ANS"
        assert made.settings["cuda_stream"] == 4711
        assert made.settings["uncomp_chunk_size"] == MIB
