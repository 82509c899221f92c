"""Memory counts while it is held: given back for certain, held for certain, or left open."""

from __future__ import annotations

import mmap
import os

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from djinn_checks.addresses import address_of
from djinn_checks.digest import digest
from djinn_checks.instruments.held_memory import HeldMemory
from djinn_checks.instruments.memory_maps import find_file, is_mapped

SIZE = 4000


def use(held: HeldMemory, tensor: torch.Tensor, number: int) -> None:
    held.note(tensor, address_of(tensor), tensor.nbytes, number)


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


def test_a_files_memory_is_known_by_its_place_in_the_file_wherever_it_is_mapped() -> None:
    file = os.memfd_create("weights")
    os.ftruncate(file, 3 * mmap.PAGESIZE)
    held = HeldMemory()
    for number, offset in enumerate((0, mmap.PAGESIZE, 0, 2 * mmap.PAGESIZE)):
        mapping = mmap.mmap(file, mmap.PAGESIZE, offset=offset)
        tensor = torch.frombuffer(mapping, dtype=torch.float32)
        place = find_file(address_of(tensor) + 8)
        assert place is not None
        assert place[1] == offset + 8
        use(held, tensor, number)
        del tensor, mapping
    assert held.bytes_of(range(4)) == (3 * mmap.PAGESIZE, mmap.PAGESIZE)
    os.close(file)


def test_memory_of_no_file_is_none() -> None:
    shared = torch.frombuffer(mmap.mmap(-1, SIZE), dtype=torch.float32)
    assert find_file(address_of(shared)) is None
    assert find_file(address_of(torch.zeros(1 << 20))) is None
    assert find_file(8) is None


def test_lazy_copies_are_where_the_first_tensor_is_and_stay_what_they_are() -> None:
    held, tensor = HeldMemory(), torch.arange(SIZE // 4, dtype=torch.float32)
    start = tensor.data_ptr()
    for number in range(3):
        copy = torch._lazy_clone(tensor)[1:]
        assert address_of(copy) == start + 4
        assert int(digest(copy)) == int(digest(torch.arange(SIZE // 4, dtype=torch.float32)[1:]))
        use(held, copy, number)
        assert torch._C._is_cow_tensor(copy)  # type: ignore[attr-defined]
        del copy
    assert held.bytes_of(range(3)) == (SIZE - 4, SIZE - 4)


def test_between_the_rows_of_a_weight_lies_what_counts_for_itself() -> None:
    held = HeldMemory()
    rows = torch.zeros(10, 2, 4)
    query, key = rows.unbind(1)
    extent = (9 * 8 + 4) * 4
    held.note(query, address_of(query), extent, 0)
    assert held.bytes_of({0}) == (query.nbytes, query.nbytes)
    held.note(key, address_of(key), extent, 1)
    assert held.bytes_of({0, 1}) == (rows.nbytes, rows.nbytes)


@settings(deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), pads=st.lists(st.integers(0, 2), min_size=3, max_size=3)
)
def test_a_weight_in_rows_of_any_shape_holds_its_own_bytes_and_never_less(shape: list[int], pads: list[int]) -> None:
    held = HeldMemory()
    room = torch.zeros([size + pad for size, pad in zip(shape, pads, strict=False)])
    weight = room[tuple(slice(size) for size in shape)]
    last = sum((size - 1) * stride for size, stride in zip(weight.shape, weight.stride(), strict=True))
    held.note(weight, address_of(weight), (last + 1) * 4, 0)
    assert weight.nbytes <= held.bytes_of({0})[0] <= (last + 1) * 4
    if len(shape) < 3:
        assert held.bytes_of({0})[0] == weight.nbytes
