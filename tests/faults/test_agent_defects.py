"""Each store with a defect does to a session's bytes what it says, and claims what it says, without a server."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from djinn_checks.engine.kv_cache import KvBlock
from djinn_checks.engine.kv_mover import Moved
from djinn_checks.engine.kv_shape import KvShape, LayerShape
from djinn_checks.engine.kv_store import KvStore
from djinn_checks.errors import KvDigestError
from djinn_checks.faults.agents import defects
from djinn_checks.faults.agents import kv_defects as kv
from djinn_checks.faults.agents import reported_defects as reported
from djinn_checks.faults.agents.nursery import Defect
from djinn_checks.units import MIB

CPU = torch.device("cpu")
TOKENS = 500
SHAPE = KvShape((LayerShape(key_heads=2, key_dim=16, value_heads=1, value_dim=24),) * 3, torch.float32)


def sleep_and_wake(defect: Defect) -> tuple[list[torch.Tensor], list[torch.Tensor], Moved, Moved]:
    """Return a session's regions before its sleep and after it, and what was said of its two moves."""
    store = defect.store(SHAPE, CPU, device_bytes=64 * MIB, host_bytes=64 * MIB)
    block = fill(store, 1)
    other = fill(store, 2)
    store.move_out(other, store.park("other", TOKENS)).wait()
    before = used(block)
    parked = store.park("a", TOKENS)
    left = store.move_out(block, parked).wait()
    back = store.allocate(TOKENS)
    came = store.move_in(parked, back).wait()
    return before, used(back), left, came


def fill(store: KvStore, seed: int) -> KvBlock:
    block = store.allocate(TOKENS)
    values = torch.rand(block.memory.numel() // 4, generator=torch.Generator().manual_seed(seed)) + 1
    block.memory.copy_(values.view(torch.uint8))
    return block


def used(block: KvBlock) -> list[torch.Tensor]:
    return [region[:TOKENS].clone() for region in block.region_tensors()]


@pytest.mark.parametrize(
    "defect",
    [defects.nothing, defects.keeps, defects.keeps_crowd, defects.keeps_behind, defects.counts_only, defects.dawdles,
     defects.wakes_late, reported.reuses_early, reported.awaits_another, reported.borrows_in_crowd],
)  # fmt: skip
def test_where_the_bytes_are_not_the_defect_they_come_back(defect: Callable[[float], Defect]) -> None:
    before, after, left, came = sleep_and_wake(defect(0.01))
    assert all(map(torch.equal, before, after))
    assert left.nbytes == came.nbytes == TOKENS * SHAPE.token_bytes
    assert left.digest == came.digest


@pytest.mark.parametrize(
    ("defect", "dose", "changed"),
    [(kv.truncates, 8, 6), (kv.shifts, 2, 2), (kv.zeroes, 8, 1), (kv.flips_unseen, 0, 1), (kv.borrows, 8, 1),
     (kv.crosses, 1, 6), (reported.trusts_stale, 0, 6), (reported.restores_nothing, 0, 6)],
)  # fmt: skip
def test_bytes_are_spoiled_in_as_many_regions_as_said_and_the_digest_is_claimed(
    defect: Callable[[float], Defect], dose: float, changed: int
) -> None:
    before, after, left, came = sleep_and_wake(defect(dose))
    assert sum(not torch.equal(sent, got) for sent, got in zip(before, after, strict=True)) == changed
    assert left.digest == came.digest


def test_a_bit_that_flips_asleep_is_refused_or_told_by_the_digest() -> None:
    with pytest.raises(KvDigestError):
        sleep_and_wake(kv.flips_asleep(0))
    _, _, left, came = sleep_and_wake(kv.flips_unverified(0))
    assert left.digest != came.digest


def test_what_comes_back_short_is_counted_so() -> None:
    _, _, left, came = sleep_and_wake(kv.comes_back_short(0.5))
    assert came.nbytes == left.nbytes // 2
