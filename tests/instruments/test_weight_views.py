"""Weights in places of another form, picked row by row, or of a class that answers for itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from djinn_checks.instruments.weight_uses import bare
from djinn_checks.instruments.weight_witness import QuietWitness, WeightEvidence, WeightWitness


class Two(nn.Module):
    """A table, and two matrices of one shape."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name, rows in (("table", 11), ("query", 8), ("key", 8)):
            setattr(self, name, nn.Parameter(torch.randn(rows, 8), requires_grad=False))

    def forward(self, ids: Tensor) -> Any:
        hidden = embedding(ids, self.table)
        return linear(hidden, self.query) * linear(hidden, self.key)


IDS = torch.tensor([1, 5, 5])


def seen_in(use: Any, reference: WeightEvidence) -> tuple[WeightEvidence | None, ...]:
    found = []
    for witness in (WeightWitness(reference), QuietWitness(reference)):
        with torch.no_grad(), witness:
            use()
        found.append(witness.evidence())
    return tuple(found)


@pytest.fixture(scope="module")
def reference() -> WeightEvidence:
    with WeightWitness() as witness:
        Two()(IDS)
    evidence = witness.evidence()
    assert evidence is not None
    return evidence


def test_rows_of_two_weights_in_turn_have_the_bytes_of_two_weights(reference: WeightEvidence) -> None:
    two = Two()
    rows = torch.stack([two.query, two.key], 1)
    both = rows[:, 0], rows[:, 1]

    def use() -> None:
        hidden = embedding(IDS, two.table)
        for weight in both:
            linear(hidden, weight)

    for evidence in seen_in(use, reference):
        assert evidence is not None
        assert not evidence.unseen
        assert evidence.used_bytes == evidence.exact_bytes == reference.used_bytes
        assert evidence.distinct_bytes == reference.used_bytes


@pytest.mark.parametrize("pick", [lambda table: table[IDS], lambda table: table.index_select(0, IDS)])
def test_a_table_that_rows_are_picked_from_is_used(pick: Any, reference: WeightEvidence) -> None:
    table = Two().table.data
    for evidence in seen_in(lambda: pick(table), reference):
        assert evidence is not None
        assert evidence.weights == ("table",)


class Elsewhere(Tensor):
    """What is asked of it is done with a copy."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return torch.zeros(3)


def test_a_tensor_that_answers_for_itself_is_not_looked_at() -> None:
    assert bare(torch.ones(3).as_subclass(Elsewhere)) is None
    assert bare(nn.Parameter(torch.ones(3))) is not None
