"""The digest sees every change of one word, wherever it is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_checks.digest import digest, digest_rows


@given(data=st.binary(min_size=1, max_size=200), position=st.integers(0), flip=st.integers(1, 255))
def test_any_change_of_one_byte_changes_the_digest(data: bytes, position: int, flip: int) -> None:
    changed = bytearray(data)
    changed[position % len(data)] ^= flip
    assert value(data) != value(changed)


def value(data: bytes | bytearray) -> int:
    return int(digest(torch.frombuffer(bytearray(data), dtype=torch.uint8)))


def test_a_flipped_bit_far_into_a_large_tensor_is_seen() -> None:
    tensor = torch.zeros(3 * (1 << 20) * 8 + 5, dtype=torch.uint8)
    seen = {int(digest(tensor))}
    for position in (0, 8 << 20, (16 << 20) + 3, tensor.numel() - 1):
        changed = tensor.clone()
        changed[position] = 128
        seen.add(int(digest(changed)))
    assert len(seen) == 5


@given(
    pair=st.lists(st.integers(0, 4095), min_size=2, max_size=2, unique=True),
    bit=st.integers(0, 15),
    seed=st.integers(0, 9),
)
def test_the_same_bit_flipped_in_two_values_does_not_cancel_out(pair: list[int], bit: int, seed: int) -> None:
    values = torch.randint(-(2**15), 2**15, (4096,), generator=torch.Generator().manual_seed(seed)).to(torch.int16)
    changed = values.clone()
    changed[pair] ^= -(2**15) if bit == 15 else 1 << bit
    assert int(digest(values)) != int(digest(changed))


def test_two_values_of_opposite_sign_exchanged_are_seen() -> None:
    tensor = torch.ones(4096, dtype=torch.float16)
    tensor[::2] = -1  # words that differ in their top bits alone
    assert int(digest(tensor)) != int(digest(tensor.roll(1)))


def test_exchanged_rows_and_a_cut_tail_are_seen() -> None:
    tensor = torch.arange(64, dtype=torch.float32).reshape(8, 8)
    exchanged = tensor[[1, 0, *range(2, 8)]]
    assert len({int(digest(t)) for t in (tensor, exchanged, tensor[:7], torch.zeros(64), torch.zeros(65))}) == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_the_digest_is_of_values_not_of_layout_or_alignment(dtype: torch.dtype) -> None:
    tensor = torch.arange(35).reshape(5, 7).to(dtype)
    shifted = torch.empty(36, dtype=dtype)[1:].view(5, 7).copy_(tensor)
    assert int(digest(tensor)) == int(digest(tensor.t().contiguous().t())) == int(digest(shifted))


@pytest.mark.gpu
def test_the_digest_is_the_same_on_cpu_and_gpu() -> None:
    tensor = torch.randn(1_234_567)
    assert int(digest(tensor)) == int(digest(tensor.cuda()))


@given(count=st.integers(1, 9), words=st.integers(1, 40000), gap=st.integers(0, 3))
def test_rows_have_the_digests_that_they_have_alone(count: int, words: int, gap: int) -> None:
    generator = torch.Generator().manual_seed(count)
    block = torch.randint(0, 256, (count, 4 * (words + gap)), generator=generator, dtype=torch.uint8)
    rows = block[:, : 4 * words]
    assert digest_rows(rows).tolist() == [int(digest(row)) for row in rows]
