"""Weights of a checkpoint, read one tensor at a time and never all at once.

safetensors files are mapped into memory, so what is copied into the engine's pinned arena comes straight
from the page cache. A checkpoint whose tensors are not the module's own (experts that transformers fuses
on load, pickled files) is loaded whole by transformers instead, when the first weight is asked for.

What a caller writes into a returned tensor is the caller's alone: the next access reads the checkpoint.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from djinn_checks.errors import ModelCorruptError, ModelError

_log = logging.getLogger(__name__)

Aliases = Mapping[str, tuple[list[str], torch.Size]]
"""First name of each parameter to all its names and its shape."""

_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies and what its header says."""

    path: Path
    name: str
    shape: torch.Size
    kind: str
    """Data type in the words of safetensors: F32, BF16, I8 ..."""


def find_safetensors(source: str) -> list[Path]:
    """Return the safetensors files of a folder or a hub id that transformers would read, all shards.

    Other safetensors files beside them are left alone. A hub id is downloaded here, once.

    Returns:
        No files if the checkpoint has another format.

    Raises:
        ModelCorruptError: the index cannot be read, or names a file that is not there.
    """
    single = _cached(source, "model.safetensors")
    if single is not None:
        return [single]
    index = _cached(source, "model.safetensors.index.json")
    if index is None:
        return []
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelCorruptError(f"{index}: is no index of weights ({error!r}); fetch it again") from error
    files = {name: _cached(source, name) for name in names}
    absent = [name for name, path in files.items() if path is None]
    if absent:
        raise ModelCorruptError(
            f"model {source!r}: {index.name} names {len(names)} files, {absent[0]} is not there; fetch it again"
        )
    return [path for path in files.values() if path is not None]


class SafetensorsWeights(Mapping[str, Tensor]):
    """Lazy mapping over (sharded) safetensors files."""

    def __init__(self, located: Mapping[str, StoredTensor], *, dtype: torch.dtype) -> None:
        """Read `located`, by parameter name; values are cast to `dtype`."""
        self._located = dict(located)
        self._dtype = dtype

    @staticmethod
    def locate(files: list[Path], aliases: Aliases, base_prefix: str) -> dict[str, StoredTensor] | None:
        """Find each parameter in the files, by any of its names, with or without the base model's prefix.

        Returns:
            The stored tensor of each parameter, or None if one is not found under its own name while the
            files hold tensors of other names, which transformers may know how to convert.

        Raises:
            ModelCorruptError: a file cannot be read, a tensor is missing, or has another shape than the module's.
            ModelError: a tensor is quantized.
        """
        stored = {tensor.name: tensor for path in files for tensor in _headers(path)}
        located = {}
        absent = []
        for first, (names, shape) in aliases.items():
            found = next((name for alias in names for name in _variants(alias, base_prefix) if name in stored), None)
            if found is None:
                absent.append(first)
                continue
            _check_header(first, shape, stored[found])
            located[first] = stored[found]
        if not absent:
            return located
        if len(located) == len(stored):
            raise ModelCorruptError(
                f"weight {absent[0]!r} ({len(absent)} in all): missing from {', '.join(path.name for path in files)}; "
                "the checkpoint is incomplete, fetch it again"
            )
        _log.info("weight %r is not stored under its own name; transformers will load the checkpoint", absent[0])
        return None

    def __getitem__(self, name: str) -> Tensor:
        from safetensors import safe_open

        stored = self._located[name]
        # A mapping of its own for each access (private, copy on write) keeps callers' writes from each other.
        with safe_open(stored.path, framework="pt", device="cpu") as file:
            tensor: Tensor = file.get_tensor(stored.name)
        return tensor.to(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._located)

    def __len__(self) -> int:
        return len(self._located)


class CheckpointWeights(Mapping[str, Tensor]):
    """A checkpoint that is loaded whole into host memory at the first access."""

    def __init__(self, load: Callable[[], Mapping[str, Tensor]], aliases: Aliases, *, dtype: torch.dtype) -> None:
        """Serve what `load` returns, by parameter name; values are cast to `dtype`."""
        self._load, self._aliases, self._dtype = load, dict(aliases), dtype
        self._loaded: Mapping[str, Tensor] | None = None

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._aliases:
            raise KeyError(name)
        if self._loaded is None:
            self._loaded = self._load()
        if name not in self._loaded:
            raise ModelCorruptError(f"weight {name!r} is missing from the checkpoint that transformers loaded")
        copy = torch.empty(self._loaded[name].shape, dtype=self._dtype)
        return copy.copy_(self._loaded[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._aliases)

    def __len__(self) -> int:
        return len(self._aliases)


def _cached(source: str, name: str) -> Path | None:
    """Return a file of a folder or a hub id, or None if it has no such file or the hub cannot be reached."""
    from transformers.utils import cached_file

    path = cached_file(
        source, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return None if path is None else Path(path)


def _variants(name: str, base_prefix: str) -> list[str]:
    prefix = f"{base_prefix}."
    return [name, name.removeprefix(prefix), prefix + name]


def _headers(path: Path) -> list[StoredTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return [
                StoredTensor(path=path, name=name, shape=torch.Size(part.get_shape()), kind=part.get_dtype())
                for name, part in slices.items()
            ]
    except SafetensorError as error:
        raise ModelCorruptError(f"{path}: is no whole safetensors file ({error}); fetch it again") from error


def _check_header(name: str, expected: torch.Size, stored: StoredTensor) -> None:
    if stored.kind not in _FLOATS:
        raise ModelError(
            f"weight {name!r} in {stored.path.name}: expected one of {', '.join(_FLOATS)}, got {stored.kind}; "
            "quantized checkpoints are not supported, choose the unquantized one"
        )
    if stored.shape != expected:
        raise ModelCorruptError(
            f"weight {name!r} in {stored.path.name}: expected shape {tuple(expected)} by the configuration, "
            f"got {tuple(stored.shape)}; configuration and weights are of different models"
        )
