"""The arena has exactly the bytes asked for."""

from __future__ import annotations

import pytest
import torch

from djinn_checks.engine.host_memory import HostArena
from djinn_checks.errors import EngineError


def test_the_arena_is_exact_zeroed_and_writable_to_its_last_byte() -> None:
    arena = HostArena(5_000_001, pinned=False)
    assert arena.buffer.shape == (5_000_001,)
    assert arena.buffer.dtype == torch.uint8
    assert not arena.buffer.any()
    arena.buffer[-1] = 7
    assert arena.buffer[-1] == 7
    arena.close()
    assert arena.buffer.numel() == 0


def test_an_empty_arena_and_a_second_close_are_fine() -> None:
    arena = HostArena(0, pinned=False)
    arena.close()
    arena.close()


def test_more_memory_than_there_is_is_refused_with_a_remedy() -> None:
    with pytest.raises(EngineError, match="cannot be mapped"):
        HostArena(2**62, pinned=False)


@pytest.mark.gpu
def test_a_pinned_arena_is_pinned_to_its_last_byte_and_can_be_unpinned() -> None:
    arena = HostArena(3 * 2**20 + 4096, pinned=True)
    assert arena.buffer.is_pinned()
    assert arena.buffer[-1:].is_pinned()
    arena.close()
