"""Random weights are the same everywhere, one by one or together, now and later."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch

from djinn_checks.models.random_weights import STANDARD_DEVIATION, random_tensor, uniform

CPU = torch.device("cpu")


def test_a_random_tensor_depends_on_name_and_seed_alone_and_never_changes() -> None:
    made = {name: random_tensor(name, (70, 300), dtype=torch.float32, device=CPU) for name in ("a", "b")}
    assert torch.equal(made["a"], random_tensor("a", (70, 300), dtype=torch.float32, device=CPU))
    assert not torch.equal(made["a"], made["b"])
    assert not torch.equal(made["a"], random_tensor("a", (70, 300), dtype=torch.float32, device=CPU, seed=1))
    longer = random_tensor("a", (300, 700), dtype=torch.float32, device=CPU)
    assert torch.equal(longer.flatten()[:21000], made["a"].flatten())
    assert made["a"].flatten()[:4].tolist() == pytest.approx(FIRST_VALUES_OF_A, rel=1e-6)


def test_the_generator_has_not_changed() -> None:
    made = random_tensor("frozen", (1031, 257), dtype=torch.float32, device=CPU, seed=7)
    assert hashlib.sha256(made.numpy()).hexdigest() == SHA256_OF_FROZEN


def test_elements_past_two_to_the_31_and_32_are_their_own() -> None:
    first = uniform("large", 0, 1000, device=CPU)
    for start in (2**31, 2**32, 2**33):
        later = uniform("large", start, start + 1000, device=CPU)
        assert (later != first).sum() > 990
        assert torch.equal(uniform("large", start - 500, start + 500, device=CPU)[500:], later[:500])


# A change of these values would break the comparison of outcomes between versions.
SHA256_OF_FROZEN = "5c4da3385f341f7cb56ecf04de7ce2f61090fb8f278188fa0de3841ab7c3bc04"
FIRST_VALUES_OF_A = [-0.019584924, 0.009937696, -0.022091103, -0.026572478]


def test_random_values_are_uniform_with_the_stated_deviation() -> None:
    values = random_tensor("matrix", (500, 1000), dtype=torch.float32, device=CPU)
    # Standard errors of mean and deviation of 500,000 uniform values: s / sqrt(n) and s / sqrt(5 n / 4).
    assert abs(values.mean().item()) < 5 * STANDARD_DEVIATION / 500_000**0.5
    assert abs(values.std().item() / STANDARD_DEVIATION - 1) < 5 / (1.25 * 500_000) ** 0.5
    # So many of 2^23 values does a draw of 500,000 hit, give or take 5 times the deviation of that count.
    expected = 2**23 * -math.expm1(-500_000 / 2**23)
    assert abs(values.unique().numel() - expected) < 5 * (500_000 - expected) ** 0.5
    assert abs(torch.corrcoef(values[:2])[0, 1].item()) < 5 / 1000**0.5
    assert abs(random_tensor("norm.weight", (5000,), dtype=torch.float32, device=CPU).mean().item() - 1) < 0.002


def test_a_random_tensor_in_half_precision_is_the_rounded_one() -> None:
    single = random_tensor("a", (300, 400), dtype=torch.float32, device=CPU)
    assert torch.equal(random_tensor("a", (300, 400), dtype=torch.float16, device=CPU), single.half())


@pytest.mark.gpu
def test_a_random_tensor_is_the_same_on_a_gpu_bit_for_bit() -> None:
    for name, shape in (("a", (3000, 5001)), ("b.bias", (7,)), ("c.weight", (4097,))):
        on_cpu = random_tensor(name, shape, dtype=torch.float16, device=CPU)
        assert torch.equal(on_cpu, random_tensor(name, shape, dtype=torch.float16, device=torch.device("cuda")).cpu())
