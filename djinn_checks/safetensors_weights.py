"""Weights of a checkpoint, read one tensor at a time and never all at once.

safetensors files are mapped into memory, so what is copied into the engine's pinned arena comes straight
from the page cache. A checkpoint whose tensors are not the module's own (experts that transformers fuses
on load, pickled files) is loaded whole by transformers instead, when the first weight is asked for.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.errors import ModelCorruptError

_log = logging.getLogger(__name__)

Aliases = Mapping[str, tuple[list[str], torch.Size]]
"""First name of each parameter to all its names and its shape."""


def find_safetensors(source: str) -> list[Path]:
    """Return the safetensors files of a folder or a hub id, all shards; none if there are none."""
    from transformers.utils import cached_file

    if Path(source).is_dir():
        return sorted(Path(source).glob("*.safetensors"))
    index = cached_file(source, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
    if index is None:
        single = cached_file(source, "model.safetensors", _raise_exceptions_for_missing_entries=False)
        return [] if single is None else [Path(single)]
    shards = sorted(set(json.loads(Path(index).read_text())["weight_map"].values()))
    return [Path(str(cached_file(source, shard))) for shard in shards]


class SafetensorsWeights(Mapping[str, Tensor]):
    """Lazy mapping over (sharded) safetensors files."""

    def __init__(self, located: Mapping[str, tuple[Path, str]], *, dtype: torch.dtype) -> None:
        """Read `located`: parameter name to (file, name in the file); values are cast to `dtype`."""
        self._located = dict(located)
        self._dtype = dtype
        self._open: dict[Path, Any] = {}

    @staticmethod
    def locate(files: list[Path], aliases: Aliases, base_prefix: str) -> dict[str, tuple[Path, str]] | None:
        """Find each parameter in the files, by any of its names, with or without the base model's prefix.

        Returns:
            Parameter name to (file, name in the file), or None if one is not found under its own name.

        Raises:
            ModelCorruptError: a file cannot be read, or a tensor has another shape than the module's.
        """
        stored = {name: (path, shape) for path in files for name, shape in _shapes(path).items()}
        located = {}
        for first, (names, shape) in aliases.items():
            candidates = [variant for name in names for variant in _variants(name, base_prefix)]
            found = next((name for name in candidates if name in stored), None)
            if found is None:
                _log.info("weight %r is not among the stored tensors; transformers will load the checkpoint", first)
                return None
            path, stored_shape = stored[found]
            if stored_shape != shape:
                raise ModelCorruptError(
                    f"weight {first!r} in {path.name}: expected shape {tuple(shape)} by the configuration, "
                    f"got {tuple(stored_shape)}; configuration and weights are of different models"
                )
            located[first] = (path, found)
        return located

    def __getitem__(self, name: str) -> Tensor:
        from safetensors import safe_open

        path, stored = self._located[name]
        if path not in self._open:
            self._open[path] = safe_open(path, framework="pt", device="cpu")
        tensor: Tensor = self._open[path].get_tensor(stored)
        return tensor.to(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._located)

    def __len__(self) -> int:
        return len(self._located)


class CheckpointWeights(Mapping[str, Tensor]):
    """A checkpoint that transformers loads whole into host memory at the first access."""

    def __init__(self, load: Callable[[], nn.Module], aliases: Aliases) -> None:
        self._load, self._aliases = load, dict(aliases)
        self._loaded: dict[str, Tensor] | None = None

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._aliases:
            raise KeyError(name)
        if self._loaded is None:
            module = self._load()
            self._loaded = {key: value.detach() for key, value in module.named_parameters(remove_duplicate=False)}
        if name not in self._loaded:
            raise ModelCorruptError(f"weight {name!r} is missing from the checkpoint that transformers loaded")
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._aliases)

    def __len__(self) -> int:
        return len(self._aliases)


def _variants(name: str, base_prefix: str) -> list[str]:
    prefix = f"{base_prefix}."
    return [name, name.removeprefix(prefix), prefix + name]


def _shapes(path: Path) -> dict[str, torch.Size]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelCorruptError(f"{path}: is no whole safetensors file ({error}); fetch it again") from error
