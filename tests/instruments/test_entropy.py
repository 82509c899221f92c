"""The floor of a coder is the entropy of what it codes: never above what an honest coder reaches."""

from __future__ import annotations

import math
import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_checks.instruments.entropy import add_up, measure_entropy

REACHED = {torch.bfloat16: 0.661, torch.float16: 0.844, torch.float32: 0.831, torch.float8_e4m3fn: 0.678}
"""Of their bytes that nvCOMP's ANS brought normal weights to (H200)."""


def normal(count: int, dtype: torch.dtype) -> torch.Tensor:
    return (0.02 * torch.randn(count, generator=torch.Generator().manual_seed(0))).to(dtype)


@pytest.mark.parametrize("dtype", REACHED, ids=str)
def test_the_floor_of_normal_weights_is_just_below_what_a_fast_coder_reaches(dtype: torch.dtype) -> None:
    weights = normal(2**19, dtype)
    found = measure_entropy("w", weights)
    assert found.error_bits == 0
    assert 0.97 * REACHED[dtype] < found.least_bytes / found.nbytes <= REACHED[dtype]
    assert found.sign_bits == pytest.approx(1, abs=1e-4)
    assert found.exponent_bits == pytest.approx(1.41 if dtype == torch.float8_e4m3fn else 2.54, abs=0.02)


def test_a_sample_is_never_above_the_whole_beyond_its_stated_error() -> None:
    weights = normal(2**19, torch.bfloat16)
    whole = measure_entropy("w", weights)
    for seed in range(8):
        sample = measure_entropy("w", weights, most_elements=2**15, seed=seed)
        assert sample.sampled == 2**15
        assert 0 < sample.error_bits < 0.2
        assert whole.least_bits - sample.error_bits <= sample.least_bits < whole.least_bits


@given(
    counts=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.uint8, torch.int32]),
)
def test_the_floor_is_shannons_for_few_values_and_below_what_deflate_needs(
    counts: list[int], dtype: torch.dtype
) -> None:
    values = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(dtype)
    found = measure_entropy("w", values)
    total = sum(counts)
    shannon = -sum(count / total * math.log2(count / total) for count in counts)
    assert found.least_bits * found.elements <= shannon * total + 1e-6 or dtype in (torch.float32, torch.int32)
    shuffled = values[torch.randperm(total, generator=torch.Generator().manual_seed(total))]
    assert found.least_bytes <= len(zlib.compress(shuffled.contiguous().view(torch.uint8).numpy().tobytes(), 9))


def test_weights_that_were_16_bit_once_have_an_empty_lower_half() -> None:
    short = normal(2**18, torch.bfloat16)
    assert measure_entropy("w", short.float()).least_bytes == pytest.approx(
        measure_entropy("w", short).least_bytes, rel=1e-6
    )


def test_weights_that_were_quantized_once_have_the_entropy_of_their_values() -> None:
    few = torch.randint(16, (2**16,), generator=torch.Generator().manual_seed(0)) * 0.0123 - 0.1
    assert measure_entropy("w", few).least_bits == pytest.approx(4, abs=0.01)


def test_nothing_and_ones_take_nothing_and_floors_add_up() -> None:
    parts = [
        measure_entropy("none", torch.empty(0)),
        measure_entropy("ones", torch.ones(1000)),
        measure_entropy("weights", normal(2**16, torch.bfloat16)),
    ]
    floor = add_up(parts)
    assert floor.weight_bytes == 4000 + 2**17
    assert floor.least_bytes == parts[2].least_bytes
    assert floor.certain_bytes == floor.least_bytes
    assert sum(floor.share_of_field.values()) >= floor.least_bytes / floor.weight_bytes
    assert add_up([]).certain_bytes == 0
