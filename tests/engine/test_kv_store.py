"""A session's KV leaves the device and comes back as it was, within hard limits, or is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from djinn_checks.engine.device_memory import DeviceMemory, block_bytes
from djinn_checks.engine.kv_cache import KvBlock
from djinn_checks.engine.kv_mover import Moved, pair_parts
from djinn_checks.engine.kv_shape import KvShape, LayerShape
from djinn_checks.engine.kv_store import KvStore, Parked
from djinn_checks.errors import KvCapacityError, KvDigestError
from djinn_checks.units import MIB

CPU = torch.device("cpu")
SHAPE = KvShape((LayerShape(key_heads=2, key_dim=16, value_heads=1, value_dim=24),) * 3, torch.float32)


def make_store(device_mib: int = 64, host_mib: int = 64, spill: Path | None = None) -> KvStore:
    return KvStore(SHAPE, CPU, device_bytes=device_mib * MIB, host_bytes=host_mib * MIB, spill_folder=spill)


def fill(block: KvBlock, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    block.memory.copy_(torch.randint(0, 256, block.memory.shape, generator=generator, dtype=torch.uint8))
    return torch.cat(block.used(500)).clone()


def sleep(store: KvStore, block: KvBlock, name: str = "a") -> Parked:
    parked = store.park(name, 500)
    store.move_out(block, parked).wait()
    store.release(block)
    return parked


def test_a_session_comes_back_as_it_left_whatever_the_new_capacity() -> None:
    store = make_store()
    block = store.allocate(500)
    before = fill(block, 1)
    parked = sleep(store, block)
    other = store.allocate(4000)
    fill(other, 2)
    store.move_in(parked, other).wait()
    assert torch.equal(torch.cat(other.used(500)), before)
    assert parked.nbytes == 500 * SHAPE.token_bytes


def test_one_flipped_bit_is_refused_and_names_the_session_and_the_part() -> None:
    store = make_store()
    block = store.allocate(500)
    fill(block, 1)
    parked = sleep(store, block, "agent-7")
    parked.pages[0][500 * SHAPE.regions[0].token_bytes + 3] ^= 1
    with pytest.raises(KvDigestError, match="'agent-7': 1 of 6 parts .* 'layer 0 values'") as caught:
        store.move_in(parked, store.allocate(500)).wait()
    assert caught.value.session_id == "agent-7"


def test_two_sessions_that_were_crossed_are_refused() -> None:
    store = make_store()
    parked = []
    for seed in (1, 2):
        block = store.allocate(500)
        fill(block, seed)
        parked.append(sleep(store, block, str(seed)))
    parked[0].pages, parked[1].pages = parked[1].pages, parked[0].pages
    with pytest.raises(KvDigestError):
        store.move_in(parked[0], store.allocate(500)).wait()


def test_the_device_limit_is_hard_and_counts_blocks_that_are_kept_for_later() -> None:
    store = make_store(device_mib=6)
    first, second = store.allocate(1000), store.allocate(1000)
    with pytest.raises(KvCapacityError, match=r"4\.19 MB of 6\.29 MB are in use"):
        store.allocate(4000)
    store.release(first)
    assert store.allocate(1000).memory.data_ptr() == first.memory.data_ptr()
    store.release(second)
    assert store.allocate(4000).memory.numel() == 4 * MIB  # the kept block had to go


def test_a_full_pool_refuses_or_spills_and_gives_its_pages_back() -> None:
    store = make_store(host_mib=1)
    blocks = [store.allocate(500) for _ in range(3)]
    first = store.park("a", 500)
    store.park("b", 500)
    assert not store.can_park(500 * 4)
    with pytest.raises(KvCapacityError, match="host_swap_pool_gb"):
        store.park("c", 500 * 4)
    used = store.pool.used_bytes
    store.discard(first)
    assert store.pool.used_bytes < used
    assert blocks


def test_what_spilled_comes_back_whole_and_a_cut_file_is_refused(tmp_path: Path) -> None:
    store = make_store(host_mib=0, spill=tmp_path / "new")
    block = store.allocate(500)
    before = fill(block, 3)
    parked = sleep(store, block)
    file = store._spill_file
    assert parked.extent is not None
    assert file.nbytes == parked.nbytes
    assert not list((tmp_path / "new").iterdir()), "it has a name, and would outlive a server that is killed"
    back = store.allocate(500)
    store.move_in(parked, back).wait()
    assert torch.equal(torch.cat(back.used(500)), before)
    file._file.truncate(parked.nbytes - 1)
    with pytest.raises(KvDigestError, match="spill file has"):
        store.move_in(parked, back).wait()
    store.discard(parked)
    assert file.nbytes == 0


def test_sessions_on_disk_take_no_descriptor_each_and_keep_out_of_each_others_places(tmp_path: Path) -> None:
    store = make_store(host_mib=0, spill=tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    blocks = [store.allocate(500) for _ in range(3)]
    held = [fill(block, seed) for seed, block in enumerate(blocks)]
    parked = [sleep(store, block) for block in blocks]
    assert len(os.listdir("/proc/self/fd")) == before
    store.discard(parked[1])
    reused = store.park("d", 300)
    assert reused.extent.end < parked[2].extent.offset, "the gap is used before the file grows"
    for number in (0, 2):
        back = store.allocate(500)
        store.move_in(parked[number], back).wait()
        assert torch.equal(torch.cat(back.used(500)), held[number])
        store.discard(parked[number])
    assert store._spill_file.nbytes <= reused.extent.end, "what is free at the end is the disk's again"


def test_a_spill_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KvCapacityError, match="cannot be written"):
        make_store(host_mib=0, spill=tmp_path / "file" / "folder")


@settings(max_examples=60)
@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=8), page=st.integers(1, 300))
def test_regions_and_pages_of_any_sizes_carry_every_byte_in_order(sizes: list[int], page: int) -> None:
    total = sum(sizes)
    data = torch.randint(0, 256, (total,), dtype=torch.uint8)
    pages = list(torch.zeros(-(-total // page) * page, dtype=torch.uint8).split(page))
    for device_part, host_part in pair_parts(list(data.split(sizes)), pages):
        host_part.copy_(device_part)
    assert torch.equal(torch.cat(pages)[:total], data)


def test_the_digest_of_a_move_depends_on_the_order_of_its_regions() -> None:
    assert digest_of((1, 2)) != digest_of((2, 1))
    assert len(digest_of((-5, 7))) == 16


def digest_of(digests: tuple[int, ...]) -> str:
    return Moved(nbytes=0, digests=digests, copy_s=0.0, total_s=0.0).digest


def test_a_session_that_grew_by_a_turn_finds_a_kept_block_of_its_size() -> None:
    memory = DeviceMemory(CPU, 200 * MIB)
    before = memory.take(65 * MIB)
    place = before.data_ptr()
    memory.give(before)
    assert memory.take(67 * MIB).data_ptr() == place


@given(st.integers(1, 2**40))
def test_a_block_is_never_too_small_and_wastes_a_sixteenth_or_a_granule_at_most(nbytes: int) -> None:
    rounded = block_bytes(nbytes)
    assert nbytes <= rounded < nbytes + max(2 * MIB, nbytes // 16 + 1)
    assert block_bytes(rounded) == rounded


@pytest.mark.gpu
def test_on_a_gpu_a_move_waits_for_what_was_computed_before_it() -> None:
    device = torch.device("cuda", 0)
    store = KvStore(SHAPE, device, device_bytes=64 * MIB, host_bytes=64 * MIB)
    block, other = store.allocate(500), store.allocate(500)
    factor = torch.ones((8192, 8192), device=device)
    for value in range(3):
        for _ in range(8):
            factor @ factor  # tens of milliseconds before the bytes are written
        block.memory.fill_(value)
        parked = store.park("a", 500)
        store.move_out(block, parked).wait()
        other.memory.fill_(255)
        store.move_in(parked, other).wait()
        store.discard(parked)
        assert all(bool((view == value).all()) for view in other.used(500))
    store.close()
