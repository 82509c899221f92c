"""Encoded segments that were kept are mapped the next time if they are those of the source; if not, it is said why."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from djinn_checks.engine.encoded_store import HEADER_BYTES, EncodedStore
from djinn_checks.engine.encoded_weights import EncodedWeights
from djinn_checks.engine.plan import Plan
from djinn_checks.engine.planes import PlanesCodec
from djinn_checks.engine.residency import plan_residency
from djinn_checks.engine.segments import Cut, cut_model
from djinn_checks.errors import CopyError
from djinn_checks.models.open import Model, open_model
from djinn_checks.systems.ring import EncodedRingSystem
from tests.engine.modules import logits, prompt
from tests.models.folders import save_folder

CPU = torch.device("cpu")


class Counting(PlanesCodec):
    encoded = 0

    def encode(self, plain: Tensor, dtype: torch.dtype) -> Tensor:
        self.encoded += 1
        return super().encode(plain, dtype)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("llama")
    save_folder("llama", folder)
    return open_model(str(folder), dtype=torch.float32, device=CPU)


@pytest.fixture(scope="module")
def cut(model: Model) -> Cut:
    return cut_model(model.skeleton())


def planned(cut: Cut, wire_bytes: Sequence[int] | None) -> Plan:
    return plan_residency(cut, int(0.8 * cut.nbytes), resident_blocks=0, wire_bytes=wire_bytes)


def encode(model: Model, cut: Cut, folder: Path) -> tuple[dict[str, Tensor], int, list[str]]:
    """Encode what streams; return the decoded segments, how many were encoded, and what is said."""
    codec = Counting()
    weights = EncodedWeights(cut, model.weights, codec, CPU, folder=folder)
    plan = weights.plan(
        lambda cut, wire: plan_residency(cut, int(0.8 * cut.nbytes), resident_blocks=0, wire_bytes=wire)
    )
    decoded = {cut.segments[load.segment].name: weights.plain(load.segment).clone() for load in plan.loads}
    assert weights.store is not None
    weights.close()
    return decoded, codec.encoded, weights.store.notes


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def blocks(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_what_was_kept_is_mapped_the_next_time_and_nothing_is_encoded(model: Model, cut: Cut, tmp_path: Path) -> None:
    first, encoded, notes = encode(model, cut, tmp_path)
    assert encoded == len(first) == len(blocks(tmp_path))
    assert notes == []
    again, encoded, notes = encode(model, cut, tmp_path)
    assert (encoded, notes) == (0, [])
    assert same(first, again)


def touched(path: Path) -> None:
    os.utime(path, ns=(path.stat().st_mtime_ns, path.stat().st_mtime_ns))


def test_if_the_source_was_written_to_since_all_is_encoded_again_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_folder("llama", folder)
    model = open_model(str(folder), dtype=torch.float32, device=CPU)
    cut = cut_model(model.skeleton())
    first, count, _ = encode(model, cut, tmp_path / "kept")
    touched(folder / "model.safetensors")
    again, encoded, notes = encode(model, cut, tmp_path / "kept")
    assert encoded == count == len(notes)
    assert all("written to since; the segment is encoded again" in note for note in notes)
    assert same(first, again)
    assert encode(model, cut, tmp_path / "kept")[1:] == (0, [])


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 16)


def cut_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def cut_within_header(path: Path) -> None:
    os.truncate(path, 100)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(64))


def flip(path: Path, place: int = HEADER_BYTES + 1000) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def make_foreign(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def swap(path: Path) -> None:
    """Put another segment's file in its place."""
    path.write_bytes(blocks(path.parent)[1].read_bytes())


def lie_about_length(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:HEADER_BYTES].replace(b'"length": ', b'"length": -', 1)[:HEADER_BYTES] + data[HEADER_BYTES:])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (cut_short, "encoded bytes, expected"),
        (lengthen, "encoded bytes, expected"),
        (cut_to_nothing, "is no encoded segment"),
        (cut_within_header, "is no encoded segment"),
        (flip, "was changed on its disk"),
        (make_foreign, "is no encoded segment"),
        (swap, "is of another source"),
        (lie_about_length, "its header was changed"),
    ],
)
def test_a_file_that_is_not_what_was_kept_is_refused_and_written_anew(
    model: Model, cut: Cut, tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    first, _, _ = encode(model, cut, tmp_path)
    spoil(blocks(tmp_path)[0])
    again, encoded, notes = encode(model, cut, tmp_path)
    assert encoded == len(notes) == 1
    assert says in notes[0]
    assert same(first, again)
    assert encode(model, cut, tmp_path)[1:] == (0, [])


@settings(max_examples=60)
@given(place=st.integers(0, HEADER_BYTES + 200), value=st.integers(1, 255))
def test_whatever_byte_changes_in_a_file_what_comes_out_is_right_or_refused(
    kept: tuple[EncodedStore, Path, Cut], place: int, value: int
) -> None:
    store, path, cut = kept
    whole = path.read_bytes()
    segment = next(segment for segment in cut.segments if store._path(segment) == path)
    expected = store.find(segment)
    assert expected is not None
    try:
        changed = bytearray(whole)
        changed[place] ^= value
        path.write_bytes(changed)
        found = store.find(segment)
        if found is not None:
            assert found.data.numpy().tobytes() == whole[HEADER_BYTES:]
            assert found.facts == expected.facts
    finally:
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def kept(model: Model, cut: Cut, tmp_path_factory: pytest.TempPathFactory) -> tuple[EncodedStore, Path, Cut]:
    folder = tmp_path_factory.mktemp("kept")
    encode(model, cut, folder)
    return EncodedStore(folder, model.weights, PlanesCodec.settings, CPU), blocks(folder)[0], cut


def test_another_version_of_the_codec_finds_nothing(kept: tuple[EncodedStore, Path, Cut], model: Model) -> None:
    store, path, cut = kept
    segment = next(segment for segment in cut.segments if store._path(segment) == path)
    assert store.find(segment) is not None
    other = EncodedStore(path.parent, model.weights, "planes 2", CPU)
    assert other.find(segment) is None


def test_several_that_open_the_same_folder_at_once_meet_whole_files_alone(
    model: Model, cut: Cut, tmp_path: Path
) -> None:
    results: list[tuple[dict[str, Tensor], int, list[str]]] = []
    threads = [threading.Thread(target=lambda: results.append(encode(model, cut, tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert all(same(decoded, results[0][0]) and notes == [] for decoded, _, notes in results)
    assert len(blocks(tmp_path)) == len(results[0][0]), "no part of a file is left behind"
    assert encode(model, cut, tmp_path)[1:] == (0, [])


def test_a_folder_that_cannot_be_written_to_is_said_and_the_model_opens(model: Model, cut: Cut, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    decoded, encoded, notes = encode(model, cut, tmp_path / "taken" / "kept")
    assert encoded == len(decoded) == len(notes)
    assert all("not kept in" in note for note in notes)


def test_random_weights_are_not_kept_and_it_is_said(tmp_path: Path) -> None:
    model = open_model("random:tiny", dtype=torch.float32, device=CPU)
    _, _, notes = encode(model, cut_model(model.skeleton()), tmp_path / "kept")
    assert len(notes) == 1
    assert "not read one by one from files" in notes[0]
    assert not (tmp_path / "kept").exists()


def run_twice(module: Any) -> None:
    for _ in range(2):  # the copies for the first one may have been made before
        logits(module, prompt(9))


def test_a_system_opened_from_what_was_kept_answers_bit_for_bit_and_proves_what_it_decodes(
    model: Model, tmp_path: Path
) -> None:
    expected = logits(model.resident(CPU), prompt(9))
    budget = int(0.8 * model.weight_bytes)
    for turn in range(2):
        with EncodedRingSystem(model, device=CPU, budget_bytes=budget, resident_blocks=0, folder=tmp_path) as system:
            module: Any = system.open()
            assert all(torch.equal(logits(module, prompt(9)), expected) for _ in range(2))
            stream: Any = system._ring and system._ring.stream
            in_files = [stream._encoded[load.segment].file is not None for load in system.plan.loads]
            assert in_files == [turn == 1] * len(in_files)
            if turn == 0:
                continue
            path = next(path for path in blocks(tmp_path) if "layers.1-" in path.name)
            with path.open("r+b") as file:  # in place, so that the mapping shows it
                file.seek(HEADER_BYTES + 2000)
                file.write(bytes(64))

            with pytest.raises(CopyError, match="layers"):
                run_twice(module)


def test_a_source_that_changes_while_it_is_read_is_not_kept(model: Model, cut: Cut, tmp_path: Path) -> None:
    store = EncodedStore(tmp_path, model.weights, PlanesCodec.settings, CPU)
    weights = EncodedWeights(cut, model.weights, PlanesCodec(), CPU, folder=tmp_path)
    weights.plan(planned)
    segment = next(segment for segment in cut.segments if segment.is_block)
    found = store.find(segment)
    assert found is not None
    store.keep(segment, replace(found.facts, source="0" * 32), found.data)
    assert "its source was written to while it was read" in store.notes[-1]
    weights.close()
