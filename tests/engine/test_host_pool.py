"""Room on the host is handed out once, all of it comes back, and what fits in one piece is one piece."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_checks.engine.host_pool import HostPool
from djinn_checks.errors import EngineError, KvCapacityError
from djinn_checks.units import MIB

PAGES = 256
LIMIT = 16 * MIB
PAGE = LIMIT // PAGES


def test_a_session_lies_in_one_piece_where_it_can() -> None:
    pool = HostPool(LIMIT, pinned=False)
    first, second = pool.take(10 * PAGE - 1), pool.take(3 * PAGE)
    assert [piece.numel() for piece in (*first, *second)] == [10 * PAGE, 3 * PAGE]
    pool.give(first)
    assert [piece.numel() for piece in pool.take(20 * PAGE)] == [20 * PAGE]


def test_it_takes_the_smallest_gap_that_holds_it_and_leaves_large_ones_to_others() -> None:
    pool = HostPool(LIMIT, pinned=False)
    gap, _ = pool.take(5 * PAGE), pool.take(PAGE)
    pool.give(gap)
    assert pool.take(4 * PAGE)[0].storage_offset() == gap[0].storage_offset()


def test_what_fits_in_no_gap_is_cut_into_as_few_pieces_as_there_are() -> None:
    pool = HostPool(LIMIT, pinned=False)
    held = [pool.take(16 * PAGE) for _ in range(16)]
    for pieces in held[::2]:
        pool.give(pieces)
    assert [piece.numel() for piece in pool.take(40 * PAGE)] == [16 * PAGE, 16 * PAGE, 8 * PAGE]


def test_more_than_there_is_is_refused_and_takes_nothing() -> None:
    pool = HostPool(LIMIT, pinned=False)
    held = pool.take(250 * PAGE)
    with pytest.raises(KvCapacityError, match="need 7 pages, 6 of 256 are free"):
        pool.take(7 * PAGE)
    assert pool.used_bytes == 250 * PAGE
    pool.give(held)
    assert pool.used_bytes == 0


def test_room_that_is_given_back_twice_is_refused() -> None:
    pool = HostPool(LIMIT, pinned=False)
    pieces, _ = pool.take(5 * PAGE), pool.take(PAGE)
    pool.give(pieces)
    with pytest.raises(EngineError, match="twice"):
        pool.give(pieces)
    assert pool.used_bytes == PAGE


def test_a_pool_without_memory_holds_nothing() -> None:
    pool = HostPool(0, pinned=False)
    assert pool.limit_bytes == 0
    assert pool.take(0) == []
    assert not pool.fits(1)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 90 * PAGE)), max_size=40))
def test_no_byte_is_ever_given_to_two(steps: list[tuple[bool, int]]) -> None:
    pool = HostPool(LIMIT, pinned=False)
    held: list[tuple[int, list[torch.Tensor]]] = []
    for number, (is_taken, value) in enumerate(steps):
        if is_taken and pool.fits(value):
            pieces = pool.take(value)
            assert sum(piece.numel() for piece in pieces) == -(-value // PAGE) * PAGE
            for piece in pieces:
                piece.fill_(number)
            held.append((number, pieces))
        elif held:
            pool.give(held.pop(value % len(held))[1])
        assert all(bool((piece == mark).all()) for mark, pieces in held for piece in pieces)
        assert pool.used_bytes == sum(piece.numel() for _, pieces in held for piece in pieces)
    for _, pieces in held:
        pool.give(pieces)
    assert [piece.numel() for piece in pool.take(LIMIT)] == [LIMIT]
