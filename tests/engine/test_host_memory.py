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


@pytest.mark.gpu
def test_an_arena_that_is_dropped_leaves_no_lock_behind_for_what_is_mapped_there_next() -> None:
    for number in range(20):
        address = HostArena(64 * 2**20, pinned=True).buffer.data_ptr()
        again = HostArena(64 * 2**20, pinned=False)  # most often at the same address
        assert not again.buffer.is_pinned(), f"round {number}, {again.buffer.data_ptr() == address}"
        again.buffer.fill_(number)
        assert torch.equal(again.buffer.cuda().cpu(), again.buffer)


def test_a_dropped_arena_is_unpinned_once_and_a_closed_one_no_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[int] = []

    class Cudart:
        def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:  # noqa: N802 - CUDA's name
            locked.append(address)
            return 0

        def cudaHostUnregister(self, address: int) -> None:  # noqa: N802 - CUDA's name
            locked.remove(address)

    monkeypatch.setattr(torch.cuda, "cudart", Cudart)
    arena = HostArena(4096, pinned=True)
    assert locked == [arena.buffer.data_ptr()]
    arena.close()
    arena.close()
    assert not locked
    arena = HostArena(4096, pinned=True)
    assert locked
    del arena
    assert not locked
