"""A checkpoint streams from its files, without a second copy, wherever their bytes are those that are used."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig

from djinn_checks import LogitsParams, PcieParams, check_logits, check_pcie
from djinn_checks.engine import host_weights as host_weights_module
from djinn_checks.engine import mapped_files
from djinn_checks.engine.host_weights import ANOTHER_TYPE, IN_NO_FILE, TOO_SHORT, HostWeights, find_runs, order_by_file
from djinn_checks.engine.mapped_files import Stretch, cut_pages, join_pages, map_file
from djinn_checks.engine.segments import Cut, Segment, cut_model
from djinn_checks.models.open import Model, open_model
from djinn_checks.outcome import Status
from djinn_checks.systems.ring import RingSystem
from tests.engine.modules import logits, prompt
from tests.models.folders import save_folder

CPU = torch.device("cpu")
OWN = "in memory of their own"
WIDE = LlamaConfig(
    vocab_size=128, hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
    max_position_embeddings=128,
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return saved models by name; of those that are sharded, layers lie in two files."""
    made = {}
    for name in ("llama", "gpt2", "llama-tied"):
        made[name] = tmp_path_factory.mktemp(name)
        save_folder(name, made[name])
    made["sharded"] = tmp_path_factory.mktemp("sharded")
    save_folder("llama", made["sharded"], max_shard_size="300KB")
    torch.manual_seed(3)
    wide = AutoModelForCausalLM.from_config(WIDE)
    for name, size in (("wide", "1GB"), ("wide-sharded", "1600KB")):
        made[name] = tmp_path_factory.mktemp(name)
        wide.save_pretrained(made[name], max_shard_size=size)
    return made


def opened(folder: Path, dtype: torch.dtype = torch.float32) -> Model:
    return open_model(str(folder), dtype=dtype, device=CPU)


def ring(model: Model, share: float = 0.6) -> RingSystem:
    return RingSystem(model, device=CPU, budget_bytes=int(share * model.weight_bytes))


def bytes_by_reason(system: RingSystem) -> dict[str, int]:
    found: dict[str, int] = {}
    for source in system.sources():
        found[source.why] = found.get(source.why, 0) + source.nbytes
    return found


@pytest.mark.parametrize("name", ["llama", "gpt2", "llama-tied", "sharded"])
def test_a_checkpoint_streams_from_its_files_and_answers_bit_for_bit(folders: dict[str, Path], name: str) -> None:
    model = opened(folders[name])
    expected = logits(model.resident(CPU), prompt(9))
    with ring(model) as system:
        foreseen = system.sources()
        module = system.open()
        assert system.sources() == foreseen
        assert all(torch.equal(logits(module, prompt(9)), expected) for _ in range(3))
        nbytes = bytes_by_reason(system)
        assert nbytes["streamed where they lie"] > 0.95 * sum(nbytes.values())
        assert sum(nbytes.values()) == system.plan.bytes_per_pass
        before = system.claimed_bytes() or 0
        logits(module, prompt(9))
        assert (system.claimed_bytes() or 0) - before == system.predicted_bytes_per_pass() == system.plan.bytes_per_pass
        rows = system.timeline()
        assert sum(row["bytes"] for row in rows) == 4 * system.plan.bytes_per_pass
        assert {row["layer"] for row in rows} == {system._cut.segments[n.segment].name for n in system.plan.loads}


def test_a_layer_that_lies_end_to_end_in_one_file_is_one_copy_and_one_across_two_files_is_two(
    folders: dict[str, Path],
) -> None:
    """Its weights fill whole multiples of what segments align them to, as those of large models do."""
    model = opened(folders["wide"])
    cut = cut_model(model.skeleton(), order=order_by_file(model.weights))
    blocks = [segment for segment in cut.segments if segment.is_block]
    assert [len(find_runs(block, model.weights)) for block in blocks] == [1] * len(blocks)
    unordered = cut_model(model.skeleton())
    assert sum(len(find_runs(block, model.weights)) for block in unordered.segments) > len(cut.segments)
    halves = opened(folders["wide-sharded"])
    cut = cut_model(halves.skeleton(), order=order_by_file(halves.weights))
    files = [{run.path for run in find_runs(block, halves.weights)} for block in cut.segments if block.is_block]
    assert max(map(len, files)) == 2


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_weights_that_are_cast_are_copied_and_it_is_said_why(folders: dict[str, Path], name: str) -> None:
    with ring(opened(folders[name], torch.bfloat16)) as system:
        system.open()
        assert bytes_by_reason(system) == {ANOTHER_TYPE: system.plan.bytes_per_pass}
        assert str(system.sources()[0]).endswith(f"bytes {OWN}: {ANOTHER_TYPE}")


def test_random_weights_are_copied_and_it_is_said_why() -> None:
    with ring(open_model("random:tiny", dtype=torch.float32, device=CPU)) as system:
        foreseen = system.sources()
        system.open()
        assert system.sources() == foreseen
        assert bytes_by_reason(system) == {IN_NO_FILE: system.plan.bytes_per_pass}


def bytes_of(segment: Segment, model: Model) -> Tensor:
    whole = torch.zeros(segment.nbytes, dtype=torch.uint8)
    segment.read(whole, model.weights)
    return whole


def host_weights(model: Model, *, pinned: bool = False) -> tuple[HostWeights, Cut]:
    cut = cut_model(model.skeleton(), order=order_by_file(model.weights))
    return HostWeights(dict(enumerate(cut.segments)), model.weights, pinned=pinned), cut


@pytest.mark.parametrize("name", ["gpt2", "sharded", "wide"])
def test_the_pieces_of_a_segment_are_its_bytes_whether_they_lie_in_files_or_not(
    folders: dict[str, Path], name: str
) -> None:
    model = opened(folders[name])
    held, cut = host_weights(model)
    for index, segment in enumerate(cut.segments):
        assert torch.equal(held.whole(index)[: segment.nbytes], bytes_of(segment, model))
        assert all(piece.offset % 512 == 0 for piece in held.pieces[index])
    assert held.own_bytes < 0.05 * cut.nbytes
    held.close()
    held.close()


class Driver:
    """CUDA's registration of host memory, for one file of which there is no more room."""

    def __init__(self, refuses: int) -> None:
        self.refuses, self.calls = refuses, 0
        self.may_go_on = threading.Event()
        """Threads wait for it, the one that opens does not."""
        self.may_go_on.set()
        self.opens = threading.get_ident()
        self.locked: dict[int, int] = {}
        self.order: list[int] = []
        self.contexts = {threading.get_ident()}

    def cuMemHostRegister_v2(self, address: Any, nbytes: Any, flags: Any) -> int:  # noqa: N802 - CUDA's name
        assert flags.value == 8, "a shared mapping of a file can be registered only as read-only"
        assert address.value % os.sysconf("SC_PAGESIZE") == 0
        if threading.get_ident() not in self.contexts:
            return 201
        if threading.get_ident() != self.opens:
            assert self.may_go_on.wait(10)
        self.calls += 1
        if self.calls == self.refuses:
            return 801
        self.locked[address.value] = nbytes.value
        self.order.append(address.value)
        return 0

    def holds(self, host: Tensor) -> bool:
        """Return whether one call registered all of it."""
        start, end = host.data_ptr(), host.data_ptr() + host.numel()
        return any(address <= start and end <= address + nbytes for address, nbytes in self.locked.items())

    def cuCtxGetCurrent(self, found: Any) -> int:  # noqa: N802 - CUDA's name
        found._obj.value = 4711
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:  # noqa: N802 - CUDA's name
        assert context.value == 4711
        self.contexts.add(threading.get_ident())
        return 0

    def cuMemHostUnregister(self, address: Any) -> int:  # noqa: N802 - CUDA's name
        del self.locked[address.value]
        return 0


class Cudart:
    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:  # noqa: N802 - CUDA's name
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802 - CUDA's name
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    made = Driver(refuses=0)
    monkeypatch.setattr(mapped_files, "_driver", lambda: made)
    monkeypatch.setattr(torch.cuda, "cudart", Cudart)
    yield made
    assert made.locked == {}, "what was registered is let go of"


def test_files_are_registered_for_the_time_that_they_stream(folders: dict[str, Path], driver: Driver) -> None:
    held, cut = host_weights(opened(folders["wide"]), pinned=True)
    assert sum(driver.locked.values()) >= cut.nbytes - held.own_bytes - len(cut.segments) * 512
    held.close()
    assert driver.locked == {}
    del held
    dropped, _ = host_weights(opened(folders["wide"]), pinned=True)
    assert driver.locked
    del dropped


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_files, "FIRST_BYTES", 4 * 4096)
    monkeypatch.setattr(mapped_files, "CHUNK_BYTES", 16 * 4096)


def test_no_copy_crosses_from_one_registered_chunk_to_another_and_each_waits_for_its_own(
    folders: dict[str, Path], driver: Driver, small_chunks: None
) -> None:
    model = opened(folders["wide"])
    held, cut = host_weights(model, pinned=True)
    pieces = [piece for segment in range(len(cut.segments)) for piece in held.pieces[segment]]
    assert len(pieces) > 2 * len(cut.segments)
    for index, segment in enumerate(cut.segments):
        held.wait(index)
        assert all(driver.holds(piece.host) for piece in held.pieces[index] if piece.chunk is not None)
        assert torch.equal(held.whole(index)[: segment.nbytes], bytes_of(segment, model))
    held.close()


def test_pages_are_registered_behind_the_opening_and_by_threads_of_the_same_context(
    folders: dict[str, Path], driver: Driver, small_chunks: None
) -> None:
    driver.may_go_on.clear()
    held, cut = host_weights(opened(folders["wide"]), pinned=True)
    chunks = [piece.chunk for index in range(len(cut.segments)) for piece in held.pieces[index]]
    held.register_rest()
    assert any(chunk is not None and not chunk.is_done for chunk in chunks)
    driver.may_go_on.set()
    for index in range(len(cut.segments)):
        held.wait(index)
    assert all(chunk is None or chunk.is_done for chunk in chunks)
    held.close()
    assert len(driver.contexts) > 1, "a thread that has not entered the context is refused"


def test_pages_that_a_copy_needs_first_are_registered_by_who_copies(
    folders: dict[str, Path], driver: Driver, small_chunks: None
) -> None:
    held, cut = host_weights(opened(folders["wide"]), pinned=True)
    before = driver.calls
    held.wait(len(cut.segments) - 1)
    assert all(piece.chunk is None or piece.chunk.is_done for piece in held.pieces[len(cut.segments) - 1])
    assert before < driver.calls
    assert driver.contexts == {threading.get_ident()}, "the thread has not begun"
    held.register_rest()
    held.close()


def test_pages_that_cuda_refuses_later_are_copied_from_all_the_same_and_it_is_logged(
    folders: dict[str, Path], driver: Driver, small_chunks: None, caplog: pytest.LogCaptureFixture
) -> None:
    driver.refuses = 3
    held, cut = host_weights(opened(folders["wide"]), pinned=True)
    for index in range(len(cut.segments)):
        held.wait(index)
    assert "error 801" in caplog.text
    assert "copies from there are slower" in caplog.text
    held.close()


def test_closing_waits_for_what_is_being_registered_and_leaves_out_the_rest(
    folders: dict[str, Path], driver: Driver, small_chunks: None
) -> None:
    driver.may_go_on.clear()
    held, _ = host_weights(opened(folders["wide"]), pinned=True)
    held.register_rest()
    threading.Timer(0.05, driver.may_go_on.set).start()
    held.close()
    assert driver.locked == {}


def test_pages_are_registered_in_the_order_in_which_they_are_wanted(
    folders: dict[str, Path], driver: Driver, small_chunks: None
) -> None:
    model = opened(folders["wide"])
    cut = cut_model(model.skeleton(), order=order_by_file(model.weights))
    last_first = dict(reversed(list(enumerate(cut.segments))))
    held = HostWeights(last_first, model.weights, pinned=True)
    chunks = [piece.chunk for segment in last_first for piece in held.pieces[segment] if piece.chunk is not None]
    files = {chunk.file.path for chunk in chunks}
    wanted = [chunk.file.buffer.data_ptr() + chunk.pages.start for chunk in dict.fromkeys(chunks) if not chunk.is_done]
    held.register_rest()
    while not all(chunk.is_done for chunk in chunks):
        time.sleep(0.001)
    assert len(wanted) > 2
    assert driver.order[len(files) :] == wanted
    held.close()


def test_the_first_chunk_is_one_in_which_odd_addresses_can_be_timed() -> None:
    stretches = [Stretch(0, 5 << 20), Stretch((20 << 20) + 40, 600 << 20)]
    chunks = cut_pages(stretches)
    first = host_weights_module.choose_first(chunks, stretches)
    assert first.start <= (20 << 20) + 40 < first.end
    even = [Stretch(0, 600 << 20)]
    assert host_weights_module.choose_first(cut_pages(even), even) == cut_pages(even)[0]


@given(st.lists(st.tuples(st.integers(0, 10**10), st.integers(1, 3 * 10**9)), min_size=1, max_size=8))
def test_chunks_are_the_pages_a_small_one_first(spans: list[tuple[int, int]]) -> None:
    stretches = [Stretch(start, start + nbytes) for start, nbytes in spans]
    chunks = cut_pages(stretches)
    assert sum(chunk.end - chunk.start for chunk in chunks) == sum(p.end - p.start for p in join_pages(stretches))
    assert all(a.end <= b.start for a, b in itertools.pairwise(chunks))
    assert chunks[0].end - chunks[0].start <= mapped_files.FIRST_BYTES
    assert all(0 < chunk.end - chunk.start <= mapped_files.CHUNK_BYTES for chunk in chunks)


def test_a_file_that_cuda_refuses_is_copied_and_the_others_stream_where_they_lie(
    folders: dict[str, Path], driver: Driver
) -> None:
    driver.refuses = 2
    model = opened(folders["sharded"])
    held, cut = host_weights(model, pinned=True)
    reasons = [source for source in held.sources if "could not register" in source.why]
    assert len(reasons) == 1
    assert "error 801" in reasons[0].why
    assert sum(source.where.startswith("in model-") for source in held.sources) > 2
    for index, segment in enumerate(cut.segments):
        assert torch.equal(held.whole(index)[: segment.nbytes], bytes_of(segment, model))
    held.close()


def test_a_file_that_was_cut_short_since_is_not_streamed_from(tmp_path: Path) -> None:
    save_folder("llama", tmp_path)
    model = opened(tmp_path)
    path = tmp_path / "model.safetensors"
    os.truncate(path, path.stat().st_size - 4096)
    with pytest.raises(SafetensorError):
        host_weights(model)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**5)), min_size=1, max_size=12))
def test_pages_are_registered_once_and_cover_what_is_read(spans: list[tuple[int, int]]) -> None:
    stretches = [Stretch(start, start + nbytes) for start, nbytes in spans]
    pages = join_pages(stretches)
    assert all(a.end < b.start for a, b in itertools.pairwise(pages))
    assert all(any(p.start <= s.start and s.end <= p.end for p in pages) for s in stretches)
    page = os.sysconf("SC_PAGESIZE")
    assert all(p.start % page == 0 == p.end % page for p in pages)
    assert all(any(p.start - page < s.start and s.end < p.end + page for s in stretches) for p in pages)


def test_a_mapping_shows_the_file_and_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 64)
    file = map_file(path)
    assert file.buffer.tolist() == list(path.read_bytes())
    (other := tmp_path / "other").write_bytes(bytes(16384))
    other.rename(path)
    assert file.buffer[255] == 255, "a file that is replaced stays what it was"


def test_the_logits_check_passes_a_ring_that_streams_from_files(folders: dict[str, Path]) -> None:
    streamed: list[tuple[int, int]] = []

    class Watched(RingSystem):
        def open(self) -> nn.Module:
            module = super().open()
            streamed.append((bytes_by_reason(self)["streamed where they lie"], self.plan.bytes_per_pass))
            return module

    params = LogitsParams.create(
        model=str(folders["llama"]), device="cpu", dtype="float32", budget_fraction=0.5, prompts=1, decode_tokens=1
    )
    outcome = check_logits(params, system_factory=Watched)
    assert outcome.status is Status.PASS, outcome.summary
    assert streamed[0][0] > 0.9 * streamed[0][1]
    for name in ("weights_streamed", "weights_at_use", "bytes_claimed_vs_planned", "bytes_claimed_vs_witnessed"):
        assert outcome.criterion(name).status is Status.PASS, name


def test_the_pcie_check_fails_no_required_row_of_a_ring_that_streams_from_files(folders: dict[str, Path]) -> None:
    params = PcieParams.create(
        model=str(folders["wide"]), device="cpu", dtype="float32", budget_fraction=0.7, duration_s=1, sweep=False
    )
    outcome = check_pcie(params, system_factory=RingSystem)
    assert outcome.status is Status.INCONCLUSIVE, outcome.summary
    assert outcome.criterion("streams_the_model").status is Status.PASS


def test_short_runs_between_long_ones_are_copied_and_it_is_said_why(folders: dict[str, Path]) -> None:
    held, _ = host_weights(opened(folders["gpt2"]))
    short = [source for source in held.sources if source.why == TOO_SHORT]
    assert len(short) == 1
    assert short[0].nbytes == held.own_bytes > 0
    held.close()


@pytest.mark.parametrize(("slowdown", "stays"), [(1.012, True), (1.03, False)])
def test_a_file_from_whose_addresses_copies_are_slower_is_copied_and_it_is_said(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, slowdown: float, stays: bool
) -> None:
    monkeypatch.setattr(host_weights_module, "_TIMED", 1 << 19)
    model = opened(folders["wide"])
    cut = cut_model(model.skeleton(), order=order_by_file(model.weights))
    starts = [run.start for segment in cut.segments for run in find_runs(segment, model.weights)]
    monkeypatch.setattr(host_weights_module, "_LINE", 64 if any(start % 64 for start in starts) else 1 << 20)

    def timed(place: Tensor, host: Tensor) -> float:
        assert place.numel() == host.numel() == 1 << 19
        return 0.01 * (1.0 if host.data_ptr() % 4096 == 0 else slowdown)

    scratch = torch.empty(1 << 19, dtype=torch.uint8)
    held = HostWeights(dict(enumerate(cut.segments)), model.weights, pinned=False, scratch=scratch, time_copy=timed)
    slow = [source.why for source in held.sources if "copies from where model.safetensors has them reach" in source.why]
    assert (slow == []) == stays
    assert (held.own_bytes < 0.05 * cut.nbytes) == stays
    held.close()


def values(model: Model) -> dict[str, Tensor]:
    return {name: model.weights[name] for name in model.weights}


def test_a_weight_lies_where_its_file_says_and_nowhere_if_it_is_cast(folders: dict[str, Path]) -> None:
    model = opened(folders["gpt2"])
    for name, value in values(model).items():
        place = model.weights.lies_at(name)  # type: ignore[attr-defined]
        with place.path.open("rb") as file:
            file.seek(place.offset)
            assert file.read(place.nbytes) == value.numpy().tobytes()
    cast = opened(folders["gpt2"], torch.float16)
    assert all(cast.weights.lies_at(name) is None for name in cast.weights)  # type: ignore[attr-defined]
