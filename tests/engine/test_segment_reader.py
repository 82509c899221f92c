"""Segments are read from files by several threads, in parts, and come out as mappings give them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from djinn_checks.engine import segment_reader
from djinn_checks.engine.segment_reader import SegmentReader
from djinn_checks.engine.segments import cut_model
from djinn_checks.errors import EngineError
from djinn_checks.models.open import Model, open_model
from tests.models.folders import save_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Return a checkpoint as it is stored, and one that is cast when it is read."""
    folder = tmp_path_factory.mktemp("gpt2")
    save_folder("gpt2", folder, max_shard_size="200KB")
    return open_model(str(folder), dtype=getattr(torch, request.param), device=CPU)


def test_what_is_read_in_parts_is_what_the_mapping_gives(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_reader, "_PART", 1000)
    segments = dict(enumerate(cut_model(model.skeleton()).segments))
    read = []
    with SegmentReader(model.weights, CPU) as reader:
        for index, place in reader.read_all(segments):
            whole = torch.zeros(segments[index].nbytes, dtype=torch.uint8)
            segments[index].read(whole, model.weights)
            assert torch.equal(place, whole)
            read.append(index)
    assert read == list(segments)


def test_a_file_that_is_cut_short_meanwhile_is_an_error_that_names_it(tmp_path: Path) -> None:
    save_folder("gpt2", tmp_path)
    model = open_model(str(tmp_path), dtype=torch.float32, device=CPU)
    os.truncate(tmp_path / "model.safetensors", 50_000)
    with SegmentReader(model.weights, CPU) as reader, pytest.raises(EngineError, match=r"model\.safetensors: was cut"):
        list(reader.read_all(dict(enumerate(cut_model(model.skeleton()).segments))))
