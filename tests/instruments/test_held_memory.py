"""Memory counts while it is held: given back for certain, held for certain, or left open."""

from __future__ import annotations

import mmap

import torch

from djinn_checks.instruments.held_memory import HeldMemory, is_mapped

SIZE = 4000


def use(held: HeldMemory, tensor: torch.Tensor, number: int) -> None:
    held.note(tensor, tensor.data_ptr(), tensor.nbytes, number)


def test_storages_that_live_together_count_together_and_one_that_died_does_not() -> None:
    held = HeldMemory()
    kept = [torch.zeros(SIZE // 4) for _ in range(3)]
    for number, tensor in enumerate(kept):
        use(held, tensor, number)
    for number in range(3, 20):
        use(held, torch.zeros(SIZE // 4), number)
    assert held.bytes_of(range(20)) == (4 * SIZE, 4 * SIZE)
    assert held.bytes_of(range(3)) == (3 * SIZE, 3 * SIZE)


def test_one_place_that_is_used_again_and_again_counts_once() -> None:
    held, arena = HeldMemory(), torch.zeros(SIZE // 4)
    for number in range(8):
        use(held, arena[: SIZE // 8], number)
        use(held, arena[SIZE // 16 :], number)
    assert held.bytes_of(range(8)) == (SIZE, SIZE)


def test_a_storage_that_was_resized_to_nothing_was_given_back() -> None:
    held = HeldMemory()
    tensors = [torch.zeros(SIZE // 4) for _ in range(5)]
    for number, tensor in enumerate(tensors):
        use(held, tensor, number)
        tensor.untyped_storage().resize_(0)
    assert held.bytes_of(range(5)) == (SIZE, SIZE)


def test_a_mapping_that_the_kernel_has_no_more_was_given_back() -> None:
    held = HeldMemory(mapped=lambda address: False)
    for number in range(4):
        use(held, torch.frombuffer(bytearray(SIZE), dtype=torch.float32), number)
    assert held.bytes_of(range(4)) == (SIZE, SIZE)


def test_memory_of_somebody_elses_whose_tensor_died_is_left_open() -> None:
    held, mappings = HeldMemory(), [mmap.mmap(-1, SIZE) for _ in range(3)]
    for number, mapping in enumerate(mappings):
        use(held, torch.frombuffer(mapping, dtype=torch.float32), number)
    assert held.bytes_of(range(3)) == (3 * SIZE, SIZE)


def test_an_address_is_mapped_while_its_mapping_lives() -> None:
    tensor = torch.zeros(1 << 20)
    assert is_mapped(tensor.data_ptr())
    assert not is_mapped(8)
