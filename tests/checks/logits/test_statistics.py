"""The logit statistics, held against slow formulas written independently in numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from djinn_checks.checks.logits.distances import LOG10_EDGES, DifferenceHistogram, UlpHistogram, ordered_integers
from djinn_checks.checks.logits.statistics import LogitStatistics, describe_reference
from djinn_checks.errors import SystemContractError

K = 5
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True, scope="module")
def _warm_up() -> None:
    """The first call into MKL's vector functions may round otherwise (see `LogitsBench`)."""
    torch.rand(4096, dtype=torch.float64).exp()


def compare(reference: Tensor, system: Tensor, tokens: Tensor, *, l2_threshold: float = 0.1) -> dict[str, Any]:
    statistics = LogitStatistics(l2_threshold=l2_threshold)
    statistics.add(reference, system, describe_reference(reference, tokens, K))
    return statistics.summary()


def logits(dtype: torch.dtype, *, positions: int = 40, vocabulary: int = 61, noise: float = 0.05, seed: int = 0) -> Any:
    """Reference, system (different in half of the positions) and next tokens."""
    generator = torch.Generator().manual_seed(seed)
    reference = (3 * torch.randn(positions, vocabulary, generator=generator)).to(dtype)
    change = noise * torch.randn(positions, vocabulary, generator=generator)
    change[::2] = 0
    tokens = torch.randint(0, vocabulary, (positions,), generator=generator)
    return reference, (reference.float() + change).to(dtype), tokens


def log_softmax(row: np.ndarray) -> np.ndarray:
    shifted = row - row.max()
    return shifted - math.log(sum(math.exp(value) for value in shifted))


def top_ids(row: np.ndarray, k: int) -> list[int]:
    return sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_statistic_equals_its_slow_formula(dtype: torch.dtype) -> None:
    reference, system, tokens = logits(dtype)
    found = compare(reference, system, tokens)
    p, q = reference.double().numpy(), system.double().numpy()
    rows = range(len(p))
    l2 = [math.sqrt(math.fsum((b - a) ** 2 for a, b in zip(p[t], q[t], strict=True))) for t in rows]
    tops = [(top_ids(p[t], K + 1), top_ids(q[t], K)) for t in rows]
    same_k = [a[:K] == b for a, b in tops]
    log_p, log_q = [log_softmax(row) for row in p], [log_softmax(row) for row in q]
    kl = [math.fsum(np.exp(a) * (a - b)) for a, b in zip(log_p, log_q, strict=True)]
    token_p = [log_p[t][tokens[t]] for t in rows]
    token_q = [log_q[t][tokens[t]] for t in rows]
    delta = [100 * (math.exp(b) - math.exp(a)) for a, b in zip(token_p, token_q, strict=True)]
    margin = [p[t][tops[t][0][K - 1]] - p[t][tops[t][0][K]] for t in rows]

    assert found["positions"] == len(p)
    assert found["elements"] == p.size
    assert found["unequal_elements"] == int((p != q).sum())
    assert found["l2_position_max"] == pytest.approx(max(l2), rel=1e-12)
    assert found["l2_whole_max"] == pytest.approx(math.sqrt(math.fsum(x * x for x in l2)), rel=1e-12)
    assert found["neither_l2_nor_top_k"] == sum(not (a < 0.1 or b) for a, b in zip(l2, same_k, strict=True)) > 0
    assert found["top_k_identical_share"] == np.mean(same_k) < 1
    assert found["same_top_token_share"] == np.mean([a[0] == b[0] for a, b in tops])
    assert found["kl"]["mean"] == pytest.approx(np.mean(kl), abs=1e-14)
    assert found["kl"]["max"] == pytest.approx(max(kl), abs=1e-14)
    assert found["kl"]["p90"] == pytest.approx(sorted(kl)[math.ceil(0.9 * len(kl)) - 1], abs=1e-14)
    assert found["delta_p"]["mean"] == pytest.approx(np.mean(delta), abs=1e-12)
    assert found["delta_p"]["rms"] == pytest.approx(math.sqrt(np.mean(np.square(delta))), abs=1e-12)
    assert found["delta_p"]["min"] == pytest.approx(min(delta), abs=1e-12)
    assert found["delta_p"]["p95"] == pytest.approx(sorted(delta)[math.ceil(0.95 * len(delta)) - 1], abs=1e-12)
    assert found["perplexity_reference"] == pytest.approx(math.exp(-np.mean(token_p)))
    assert found["perplexity_system"] == pytest.approx(math.exp(-np.mean(token_q)))
    assert found["perplexity_ratio"] == pytest.approx(found["perplexity_system"] / found["perplexity_reference"])
    assert found["margin"]["min"] == pytest.approx(min(margin))
    assert found["margin"]["p50"] == pytest.approx(sorted(margin)[len(margin) // 2 - 1])
    assert sum(found["margin"]["counts"]) == len(p)
    assert found["kl_by_position"]["mean"] == pytest.approx(kl, abs=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_logits_have_every_distance_exactly_zero(dtype: torch.dtype) -> None:
    reference, _, tokens = logits(dtype)
    found = compare(reference, reference.clone(), tokens)
    zeros = ("unequal_elements", "nonfinite", "l2_position_max", "l2_whole_max", "neither_l2_nor_top_k")
    assert [found[name] for name in zeros] == [0, 0, 0, 0, 0]
    assert set(found["kl"].values()) == {0.0} == set(found["delta_p"].values())
    assert found["perplexity_ratio"] == 1 == found["top_k_identical_share"]
    assert found["ulp"] == {"max": 0, "p99": 0}
    assert found["difference_histogram"]["zero"] == reference.numel()


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, system, tokens = logits(torch.float32)
    whole = compare(reference, system, tokens)
    monkeypatch.setattr("djinn_checks.checks.logits.statistics._CHUNK_ELEMENTS", 3 * reference.shape[1])
    assert compare(reference, system, tokens) == whole


def test_prompts_of_different_lengths_add_up() -> None:
    statistics = LogitStatistics(l2_threshold=0.1)
    for positions in (3, 7):
        reference, system, tokens = logits(torch.float32, positions=positions, noise=1e-3, seed=positions)
        statistics.add(reference, system, describe_reference(reference, tokens, K))
    found = statistics.summary()
    assert found["positions"] == 10
    assert found["kl_by_position"]["position"] == list(range(7))
    assert found["kl_by_position"]["max"][1] >= found["kl_by_position"]["mean"][1] > 0
    assert found["kl_by_position"]["mean"][0] == 0


def test_the_first_differing_position_is_reported() -> None:
    reference, _, tokens = logits(torch.float32)
    system = reference.clone()
    system[7, 3] = torch.nextafter(system[7, 3], torch.tensor(torch.inf))
    compared = LogitStatistics(l2_threshold=0.1).add(reference, system, describe_reference(reference, tokens, K))
    assert (compared.unequal_elements, compared.first_position) == (1, 7)


def test_nan_that_was_there_before_is_equal_and_a_new_one_is_the_worst_there_is() -> None:
    reference, _, tokens = logits(torch.float32)
    reference[2, 5] = torch.nan
    same = compare(reference, reference.clone(), tokens)
    assert (same["unequal_elements"], same["nonfinite"], same["l2_position_max"]) == (0, 1, 0)

    system = reference.clone()
    system[4, 5] = torch.nan
    found = compare(reference, system, tokens)
    assert (found["unequal_elements"], found["nonfinite"], found["neither_l2_nor_top_k"]) == (1, 2, 1)
    assert found["l2_position_max"] == found["kl"]["max"] == found["perplexity_system"] == math.inf
    assert found["difference_histogram"]["nan"] == 1


def test_negative_zero_differs_in_bits_and_in_nothing_else() -> None:
    reference, _, tokens = logits(torch.float32)
    reference[0, 0] = 0.0
    system = reference.clone()
    system[0, 0] = -0.0
    found = compare(reference, system, tokens)
    assert (found["unequal_elements"], found["l2_position_max"], found["ulp"]["max"]) == (1, 0, 0)
    assert found["difference_histogram"]["zero"] == reference.numel()


def test_equal_logits_are_ranked_by_token_id() -> None:
    reference = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0, 2.0, 1.0]])
    assert describe_reference(reference, torch.tensor([0]), K).top.tolist() == [[1, 2, 3, 5, 0]]


def test_logits_of_another_shape_or_dtype_are_refused() -> None:
    reference, system, tokens = logits(torch.float32)
    positions = describe_reference(reference, tokens, K)
    with pytest.raises(SystemContractError, match=r"expected \[40, 61\].*cut off what was added to the vocabulary"):
        LogitStatistics(l2_threshold=0.1).add(reference, system[:, :-1], positions)
    with pytest.raises(SystemContractError, match=r"torch\.float16; answer in the model's data type"):
        LogitStatistics(l2_threshold=0.1).add(reference, system.half(), positions)
    with pytest.raises(SystemContractError, match=r"got \[39, 61\].*give logits of each token of the prompt"):
        LogitStatistics(l2_threshold=0.1).add(reference, system[:-1], positions)


finite_bits = {
    torch.float32: (torch.int32, 0x7F7FFFFF),
    torch.bfloat16: (torch.int16, 0x7F7F),
    torch.float16: (torch.int16, 0x7BFF),
}


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
@settings(max_examples=50)
def test_ordered_integers_keep_the_order_and_count_the_floats_between(dtype: torch.dtype, data: Any) -> None:
    integer, largest = finite_bits[dtype]
    magnitudes = data.draw(st.lists(st.integers(0, largest), min_size=1, max_size=20))
    signs = data.draw(st.lists(st.sampled_from([1, -1]), min_size=len(magnitudes), max_size=len(magnitudes)))
    values = torch.tensor(magnitudes, dtype=integer).view(dtype) * torch.tensor(signs, dtype=dtype)
    numbers = ordered_integers(values)
    exact = values.double()
    assert torch.equal((numbers[:, None] - numbers).sign(), (exact[:, None] - exact).sign().long())
    assert torch.equal(ordered_integers(-values), -numbers)
    above = torch.nextafter(values.float(), torch.tensor(torch.inf)) if dtype is torch.float32 else None
    if above is not None:
        assert torch.equal(ordered_integers(above) - numbers, torch.ones_like(numbers))


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=60), st.integers(0, 5))
@settings(max_examples=100)
def test_no_difference_is_lost_by_the_histogram(differences: list[float], zeros: int) -> None:
    histogram = DifferenceHistogram()
    histogram.add(torch.tensor(differences, dtype=torch.float64))
    histogram.add_zeros(zeros)
    found = histogram.to_dict()
    total = found["zero"] + found["nan"] + sum(found["negative"]) + sum(found["positive"])
    assert total == len(differences) + zeros
    assert found["zero"] == zeros + differences.count(0.0)
    assert sum(found["negative"]) == sum(value < 0 for value in differences)


def test_histogram_bins_hold_what_their_edges_say() -> None:
    rng = np.random.default_rng(0)
    sizes = 10 ** rng.uniform(LOG10_EDGES[0], LOG10_EDGES[-1], 500)
    histogram = DifferenceHistogram()
    histogram.add(-torch.from_numpy(sizes))
    expected, _ = np.histogram(np.log10(sizes), bins=LOG10_EDGES)
    assert histogram.to_dict()["negative"] == expected.tolist()


def test_ulp_percentiles_are_exact_while_small_and_bounded_when_large() -> None:
    histogram = UlpHistogram()
    one = torch.ones(100)
    steps = torch.arange(100, dtype=torch.int32)
    histogram.add(one, (one.view(torch.int32) + steps).view(torch.float32))
    assert (histogram.max, histogram.percentile(99), histogram.percentile(50)) == (99, 98, 49)
    histogram.add(one, -one)
    assert histogram.max == 2 * 0x3F800000
    assert histogram.max // 2 <= histogram.percentile(99) <= histogram.max
